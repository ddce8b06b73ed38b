-- The role that runs other people's SQL: it may read the views, and nothing else.
--
-- Rules of the file:
-- * The wall is this role, not a parser. Whatever is revoked here is revoked for this database alone, from everybody
--   but superusers; headgate needs a database of its own.
-- * Where the owner may not make roles or revoke (an external PostgreSQL), that is noted and the catalog works without
--   queries; whoever runs that server makes the role by this file.

DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'headgate_query') THEN
        CREATE ROLE headgate_query NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT CONNECTION LIMIT 8;
    END IF;
    ALTER ROLE headgate_query SET default_transaction_read_only = on;
    ALTER ROLE headgate_query SET statement_timeout = '5s';
    ALTER ROLE headgate_query SET lock_timeout = '1s';
    ALTER ROLE headgate_query SET idle_in_transaction_session_timeout = '30s';
    ALTER ROLE headgate_query SET work_mem = '16MB';
    ALTER ROLE headgate_query SET search_path = headgate;
    ALTER ROLE headgate_query SET jit = off;
    ALTER ROLE headgate_query SET timezone = 'UTC';
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the role headgate_query could not be made: %', SQLERRM;
END $$;

DO $$
BEGIN
    ALTER ROLE headgate_query SET temp_file_limit = '256MB';
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'temp_file_limit could not be set: %', SQLERRM;
END $$;

DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO headgate_query', current_database());
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA headgate TO headgate_query;
    GRANT SELECT ON ALL TABLES IN SCHEMA headgate TO headgate_query;
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'headgate_query could not be let in: %', SQLERRM;
END $$;

DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND (proname IN ('set_config', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until', 'pg_notify', 'pg_cancel_backend',
                           'pg_terminate_backend', 'lo_create', 'lo_creat', 'lo_open', 'lo_from_bytea', 'lo_put', 'lo_get',
                           'lowrite', 'loread', 'lo_unlink', 'lo_truncate', 'lo_truncate64', 'pg_export_snapshot',
                           'query_to_xml', 'cursor_to_xml', 'table_to_xml', 'schema_to_xml', 'database_to_xml',
                           'query_to_xmlschema', 'query_to_xml_and_xmlschema', 'nextval', 'setval',
                           'pg_stat_get_activity', 'pg_log_backend_memory_contexts')
               OR proname LIKE 'pg\_advisory\_%' OR proname LIKE 'pg\_try\_advisory\_%'
               OR proname LIKE 'pg\_read\_%' OR proname LIKE 'pg\_ls\_%' OR proname LIKE 'pg\_stat\_reset%')
    LOOP
        BEGIN
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', one);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE '% stays open to everybody: %', one, SQLERRM;
        END;
    END LOOP;
END $$;
