#!/bin/sh
# Prints an .env for compose.yaml with fresh secrets:  sh edge/deploy/make-env.sh > .env && chmod 600 .env
set -eu

secret() {
    # Letters and digits, a letter first: a secret becomes part of an address, and nats-server reads digits as a number.
    printf 's%s' "$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')"
}

cat <<END
# Every secret of the installation: keep it out of version control.
# name=key;scopes=..., several by commas, a key of 16 characters or more. The first is yours, for everything.
HEADGATE_API_KEYS='me=$(secret);scopes=admin,prometheus=$(secret);scopes=metrics:read'
# Signs tokens: the same for all gateways, so that each takes the others' tokens.
HEADGATE_TOKEN_SECRET=$(secret)
NATS_PASSWORD=$(secret)
POSTGRES_PASSWORD=$(secret)
REDIS_PASSWORD=$(secret)
END
