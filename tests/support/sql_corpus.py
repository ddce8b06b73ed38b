"""Statements that a stranger might send to `/query/sql`, and what may become of each.

Rules of the file:
- REFUSED ones must fail; HARMLESS ones may succeed, and change and wait for nothing all the same.
- The canary is `catalog.canary`: a table of the owner's, which stands for everything else in the database.
"""

import random
from typing import Final

__all__ = ["HARMLESS", "REFUSED", "random_statement"]

REFUSED: Final = [
    # writes
    "insert into catalog.canary values (2)",
    "update catalog.canary set n = 2",
    "delete from catalog.canary",
    "truncate catalog.canary",
    "merge into catalog.canary c using (select 1) s on true when matched then delete",
    "with gone as (delete from catalog.canary returning *) select * from gone",
    "with made as (insert into catalog.canary values (2) returning n) select n from made",
    "select * into stolen from files",
    "create table mine (n int)",
    "create temp table mine (n int)",
    "create view mine as select 1",
    "create function mine() returns int language sql as 'select 1'",
    "drop table catalog.canary",
    "drop view headgate.files cascade",
    "alter table catalog.canary add column x int",
    "alter role headgate_query superuser",
    "grant all on catalog.canary to headgate_query",
    "refresh materialized view x",
    "select * from catalog.canary",
    "table catalog.canary",
    "select * from catalog.secrets",
    "select * from headgate.files for update",
    # the session and its limits
    "set statement_timeout = 0",
    "set role headgate",
    "set session authorization headgate",
    "reset all",
    "begin",
    "commit",
    "rollback; begin read write",
    "savepoint x",
    "listen canary",
    "notify canary, 'x'",
    "prepare x as select 1",
    "declare x cursor with hold for select 1",
    "discard all",
    "lock table headgate.files",
    "explain analyze delete from catalog.canary",
    "explain select 1",
    "do $$ begin delete from catalog.canary; end $$",
    "call nobody()",
    "vacuum",
    "checkpoint",
    "load 'x'",
    "show all",
    "select set_config('statement_timeout', '0', false)",
    "select set_config('transaction_read_only', 'off', true)",
    "select pg_sleep(30)",
    "select pg_sleep_for('30 s')",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_xact_lock(1)",
    "select pg_notify('canary', 'x')",
    "select nextval('catalog.epochs_epoch_seq')",
    "select pg_logical_emit_message(false, 'x', repeat('y', 1000))",
    "select pg_current_xact_id()",
    "select txid_current()",
    "select pg_export_snapshot()",
    # files, other servers, other sessions
    "copy files to '/tmp/stolen'",
    "copy (select 1) to program 'id'",
    "copy catalog.canary from '/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select pg_read_binary_file('postgresql.conf')",
    "select pg_ls_dir('.')",
    "select * from pg_ls_waldir()",
    "select pg_stat_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "select lo_from_bytea(0, 'x')",
    "select lo_export(1, '/tmp/x')",
    "select dblink('dbname=postgres', 'delete from catalog.canary')",
    "select * from pg_stat_activity",
    "select * from pg_stat_get_activity(null)",
    "select pg_cancel_backend(1)",
    "select pg_terminate_backend(1)",
    "select pg_reload_conf()",
    "select * from pg_authid",
    "select * from pg_shadow",
    "select * from pg_roles",
    "select * from pg_settings",
    "select * from pg_hba_file_rules",
    "select query_to_xml('select 1', true, true, '')",
    "select * from ts_stat('select path::tsvector from files')",
    # tricks with comments and parentheses, against the wrapping
    "select 1; delete from catalog.canary",
    "select 1;; select 2",
    "select 1) _q; delete from catalog.canary; --",
    "select 1) _q limit 1; delete from catalog.canary; select * from (select 1",
    "select 1) a, (select 2",
    "select 1) _q union all select * from (select repeat('x', 300000000)",
    "select 1 /*) _q; delete from catalog.canary; /*",
    "select 1 /* /* */ ) _q; delete from catalog.canary; --",
    "select 'x'') _q; delete from catalog.canary; --",
    "select E'\\') _q; delete from catalog.canary; --",
    "select $a$ $b$) _q; delete from catalog.canary; --$b$",
    'select 1 as ") _q; delete from catalog.canary; --',
    "select 1 --\r) _q; delete from catalog.canary",
    "(select 1",
    "select 1)",
    ")",
    "select 1 limit all offset 0) _q limit all --",
    # too much
    "select count(*) from generate_series(1, 1000000000000)",
    "with recursive r as (select 1 union all select 1 from r) select count(*) from r",
    "select repeat('x', 300000000)",
    "select repeat(repeat('x', 30000), 30000)",
    "select lpad('x', 300000000)",
    "select string_agg(repeat('x', 1000), '') from generate_series(1, 1000000)",
    "select array_agg(g) from generate_series(1, 100000000) g",
    "select * from generate_series(1, 100000000) a order by a desc",
    "select * from generate_series(1, 100000000)",
]
"""Those under *too much* take the whole time limit, or the memory that the kernel leaves them."""

HARMLESS: Final = [
    "select 1; -- done",
    "select 1 -- ) _q; delete from catalog.canary",
    "select 1 /* ) _q; delete from catalog.canary */",
    "select ') _q; delete from catalog.canary; --'",
    "select $$) _q; delete from catalog.canary; --$$",
    "(select 1)",
    "values (1)",
    "table headgate.files",
    "with a as (select 1) select * from a",
    "select current_setting('statement_timeout')",
    "select current_user, session_user, version()",
    "select * from information_schema.tables",
    "select random(), gen_random_uuid(), now(), clock_timestamp()",
    "select * from generate_series(1, 5000)",
    "select " + "(" * 9000 + "1" + ")" * 9000,
    "select",
]

_TEXT: Final = (
    "select from where delete insert update with as returning set begin copy do listen ; ; ( ) ( ) , ' '' \" $$ $x$ "
    "-- /* */ \n \r E' \\ catalog.canary files * 1 'x' :: := : [ ] pg_sleep(9) set_config limit all _q union "
    "headgate.files _r _g j CASE WHEN THEN END OFFSET LIMIT \0 é U&' N' %% %(a)s :a $1 = + into values table explain"
)
_WORDS: Final = _TEXT.split(" ")


def random_statement(chance: random.Random) -> str:
    """A string of words that mean something to PostgreSQL or to the wrapping."""
    return "".join(chance.choice(_WORDS) + chance.choice(["", " "]) for _ in range(chance.randint(1, 20)))
