-- The wall of the query role, made higher: what is volatile is closed unless it is named here, and nobody reads about
-- other sessions, roles or settings.
--
-- Rules of the file:
-- * As in 0002: what the owner may not do on an external PostgreSQL is noted, and the rest holds.
-- * A function that is new in some PostgreSQL is closed when it is volatile; 0002's list would have to know it.

DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY[
        'max_parallel_workers_per_gather = 0',        -- a query has one process, and that one is confined
        'client_connection_check_interval = ''200ms''', -- a query whose gateway is gone ends
        'transaction_timeout = ''150s''',             -- above the longest stream; from PostgreSQL 17 on
        'bytea_output = ''hex''',
        'intervalstyle = ''postgres''',
        'datestyle = ''ISO, YMD''',
        'row_security = on'
    ] LOOP
        BEGIN
            EXECUTE 'ALTER ROLE headgate_query SET ' || one;
        EXCEPTION WHEN OTHERS THEN
            RAISE NOTICE '% could not be set: %', one, SQLERRM;
        END;
    END LOOP;
END $$;

DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND has_function_privilege('public', oid, 'EXECUTE')
          AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'index_am_handler'::regtype,
                                 'table_am_handler'::regtype, 'language_handler'::regtype, 'tsm_handler'::regtype)
          AND (provolatile = 'v' AND proname NOT IN (
                   'random', 'random_normal', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'clock_timestamp', 'timeofday',
                   'array_sample', 'array_shuffle', 'plpgsql_validator', 'plpgsql_inline_handler', 'dsnowball_init',
                   'dsnowball_lexize', 'amvalidate')
               -- These take a number of transactions each, or tell about other sessions and the server.
               OR proname IN ('txid_current', 'pg_current_xact_id', 'pg_show_all_settings', 'pg_listening_channels')
               OR proname LIKE 'pg\_stat\_get\_%' OR proname LIKE 'pg\_get\_backend%'
               -- These run a text as a query, past the limits that the gateway puts around one.
               OR proname LIKE '%to\_xml%' OR proname IN ('ts_stat', 'ts_rewrite') AND 'text'::regtype = ANY (proargtypes))
    LOOP
        BEGIN
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', one);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE '% stays open to everybody: %', one, SQLERRM;
        END;
    END LOOP;
END $$;

DO $$
DECLARE
    one regclass;
BEGIN
    FOR one IN
        SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('v', 'r')
          AND (relname LIKE 'pg\_stat\_%' OR relname LIKE 'pg\_statio\_%' OR relname LIKE 'pg\_replication%'
               OR relname LIKE 'pg\_publication%' OR relname LIKE 'pg\_subscription%'
               OR relname IN ('pg_roles', 'pg_user', 'pg_group', 'pg_auth_members', 'pg_db_role_setting', 'pg_settings',
                              'pg_locks', 'pg_prepared_xacts', 'pg_prepared_statements', 'pg_user_mappings',
                              'pg_largeobject_metadata', 'pg_database', 'pg_tablespace', 'pg_shdepend',
                              'pg_shdescription', 'pg_shseclabel', 'pg_parameter_acl', 'pg_foreign_server'))
    LOOP
        BEGIN
            EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', one);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE '% stays readable: %', one, SQLERRM;
        END;
    END LOOP;
END $$;
