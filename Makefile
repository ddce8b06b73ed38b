# Needs Python 3.11 or newer (with venv) and make; everything else is installed into .venv.
#
#   make run ARGS="--once"      make test ARGS="-k window"      make bench ARGS="ingest --json out.json"
#
# Another interpreter for .venv: make PYTHON=/path/to/python3.12 run (after make clean)

VENV := .venv
PYTHON ?=
ARGS ?=
# Most tests wait for processes of their own: three files of tests at a time. TOGETHER= runs one after the other.
TOGETHER ?= -n 3 --dist loadfile --no-loadscope-reorder

# The first of these that is new enough and can make a virtual environment.
define find_python
	for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found="$$python"; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "headgate needs Python 3.11 or newer with its venv module, and none of these is one:" \
			"$(strip $(PYTHON) python3.13 python3.12 python3.11 python3)." >&2; \
		echo "Install one (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi
endef

# $(call install,what) makes .venv where there is none that works, and installs `what` into it.
define install
	@found=""; \
	if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
		$(find_python); \
		echo "making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV) || exit 1; \
	fi; \
	echo "installing $(1) into $(VENV)"; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '$(1)'
	@touch $@
endef

.DEFAULT_GOAL := help
.PHONY: help run test test-long check bench clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# Installed again when pyproject.toml changed, and only then.
$(VENV)/installed-run: pyproject.toml
	$(call install,.)

$(VENV)/installed-all: pyproject.toml
	$(call install,.[test$(,)check$(,)bench])
	@touch $(VENV)/installed-run

, := ,

run: $(VENV)/installed-run ## the whole product on this machine: gateway, scan, two agents, a table of figures
	@$(VENV)/bin/headgate demo $(ARGS)

test: $(VENV)/installed-all ## every test but the long ones; says what it skipped and why
	@$(VENV)/bin/python -m pytest -m "not long" -rs $(TOGETHER) $(ARGS)

test-long: $(VENV)/installed-all ## the long tests alone
	@$(VENV)/bin/python -m pytest -m long -rs $(ARGS)

check: $(VENV)/installed-all ## format, lint and types
	@. $(VENV)/bin/activate && ruff format --check . && ruff check . && mypy

bench: $(VENV)/installed-all ## measure: ARGS="SCENARIO --json FILE --plot FILE"
	@$(VENV)/bin/python -m bench $(ARGS)

clean: ## remove what make, the checks and the tests made; never a data folder
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find actors bench edge engine tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
