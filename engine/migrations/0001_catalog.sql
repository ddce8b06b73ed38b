-- The catalog: what the log says of files and scans, in the order of the log.
--
-- Rules of the file:
-- * A row is what the newest event about its path says, and nothing else: (epoch, seq, event) is that event's position,
--   an older one never overwrites it, and a deletion is a row too. So the rows do not depend on the order or the number
--   of times in which events arrive.
-- * Few indexes: every one of them costs each event. Keys are 16-byte digests, for a path may be longer than an index
--   entry can be.
-- * What people read are the views in the schema headgate; the tables are the gateway's own.

CREATE SCHEMA headgate;

-- Streams that fed the catalog. A log that was lost and made again begins at sequence 1 and is newer all the same.
CREATE TABLE catalog.epochs (
    epoch integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,
    created text NOT NULL,
    UNIQUE (stream, created)
);

CREATE TABLE catalog.files (
    key bytea NOT NULL,            -- digest of the path
    identity bytea,                -- the cache's key of the file; null when the event does not teach the cache
    stored_at timestamptz NOT NULL,-- when the log stored the event
    seq bigint NOT NULL,
    epoch integer NOT NULL,
    event integer NOT NULL,
    is_deleted boolean NOT NULL,
    name_at integer NOT NULL,      -- where the name begins in the path, characters from 1
    size bigint,
    disk_size bigint,
    mtime timestamptz,
    atime timestamptz,
    ctime timestamptz,
    seen_at timestamptz,
    dev bigint,                    -- unsigned on the scanner's side: the bits are kept
    inode bigint,
    uid bigint,
    gid bigint,
    mode bigint,
    nlinks bigint,
    path text NOT NULL,
    kind text,
    owner text,
    group_name text,
    algo text,
    hash text,
    scan_id text
) WITH (fillfactor = 90, autovacuum_vacuum_insert_scale_factor = 1);

CREATE UNIQUE INDEX files_key ON catalog.files (key);
CREATE INDEX files_identity ON catalog.files (identity) WHERE identity IS NOT NULL;

-- The newest event of each kind of a scan.
CREATE TABLE catalog.scan_events (
    key bytea NOT NULL,            -- digest of the scan's id, or of its root where it has none
    kind text NOT NULL,            -- started, telemetry, error, completed
    seq bigint NOT NULL,
    epoch integer NOT NULL,
    event integer NOT NULL,
    stored_at timestamptz NOT NULL,
    scan_id text,
    root_path text,
    data jsonb NOT NULL,
    PRIMARY KEY (key, kind)
);

CREATE FUNCTION catalog.unsigned(value bigint) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value < 0 THEN value::numeric + 18446744073709551616 ELSE value::numeric END;

CREATE FUNCTION catalog.whole_number(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value ~ '^[0-9]{1,18}(\.0*)?$' THEN split_part(value, '.', 1)::bigint END;

CREATE VIEW headgate.files AS
SELECT path,
       CASE WHEN name_at <= 1 THEN ''
            WHEN name_at = 2 THEN left(path, 1)
            ELSE left(path, name_at - 2) END AS directory,
       substr(path, name_at) AS name,
       lower(substring(substr(path, name_at) FROM '[^.]\.([^.]+)$')) AS ext,
       coalesce(kind, 'file') AS kind,
       size, disk_size, mtime, atime, ctime, owner, group_name AS "group", uid, gid, mode, nlinks,
       catalog.unsigned(dev) AS dev, catalog.unsigned(inode) AS inode,
       algo, hash, scan_id, seen_at, stored_at, epoch, seq, event
FROM catalog.files
WHERE NOT is_deleted;

CREATE VIEW headgate.deleted AS
SELECT path,
       CASE WHEN name_at <= 1 THEN ''
            WHEN name_at = 2 THEN left(path, 1)
            ELSE left(path, name_at - 2) END AS directory,
       substr(path, name_at) AS name,
       stored_at, epoch, seq, event
FROM catalog.files
WHERE is_deleted;

-- Two names of one inode are one copy: the inner query folds hard links.
CREATE VIEW headgate.contents AS
SELECT algo, hash, size,
       sum(files)::bigint AS files,
       count(*) AS copies,
       size * count(*)::numeric AS bytes,
       min(first_path) AS first_path,
       max(stored_at) AS last_stored_at
FROM (
    SELECT algo, hash, size, count(*) AS files, min(path) AS first_path, max(stored_at) AS stored_at
    FROM catalog.files
    WHERE NOT is_deleted AND hash IS NOT NULL AND algo IS NOT NULL
    GROUP BY algo, hash, size, dev, inode, CASE WHEN inode IS NULL OR inode = 0 THEN key END
) AS copies
GROUP BY algo, hash, size;

CREATE VIEW headgate.duplicates AS
SELECT algo, hash, size,
       count(*) AS copies,
       sum(files)::bigint AS files,
       size * (count(*) - 1)::numeric AS wasted_bytes,
       (array_agg(first_path ORDER BY first_path))[1:10] AS paths
FROM (
    SELECT algo, hash, size, count(*) AS files, min(path) AS first_path
    FROM catalog.files
    WHERE NOT is_deleted AND hash IS NOT NULL AND algo IS NOT NULL
    GROUP BY algo, hash, size, dev, inode, CASE WHEN inode IS NULL OR inode = 0 THEN key END
) AS copies
GROUP BY algo, hash, size
HAVING count(*) > 1;

CREATE VIEW headgate.directories AS
WITH direct AS (
    SELECT directory, count(*) AS files, sum(coalesce(size, 0)) AS bytes
    FROM headgate.files
    GROUP BY directory
), below AS (
    -- Every directory above and including each one that holds files.
    SELECT CASE WHEN depth = 0 THEN '/' ELSE array_to_string(parts[1:depth], '/') END AS directory, files, bytes
    FROM (SELECT string_to_array(rtrim(directory, '/'), '/') AS parts, left(directory, 1) = '/' AS is_rooted,
                 left(directory, 2) = '//' AS is_share, files, bytes
          FROM direct) AS split,
         generate_series(
             CASE WHEN is_rooted THEN 0 ELSE 1 END,
             greatest(cardinality(parts), CASE WHEN is_rooted THEN 0 ELSE 1 END)
         ) AS depth
    WHERE NOT (is_rooted AND depth = 1) AND NOT (is_share AND depth = 2)
)
SELECT below.directory,
       coalesce(max(direct.files), 0)::bigint AS files,
       coalesce(max(direct.bytes), 0) AS bytes,
       sum(below.files)::bigint AS total_files,
       sum(below.bytes) AS total_bytes
FROM below LEFT JOIN direct USING (directory)
GROUP BY below.directory;

CREATE VIEW headgate.scans AS
WITH newest AS (
    SELECT DISTINCT ON (key) key, scan_id, root_path, kind, stored_at
    FROM catalog.scan_events
    ORDER BY key, epoch DESC, seq DESC, event DESC
)
SELECT newest.scan_id, newest.root_path,
       CASE newest.kind WHEN 'completed' THEN 'completed' WHEN 'error' THEN 'failed' ELSE 'running' END AS state,
       started.stored_at AS started_at,
       newest.stored_at AS updated_at,
       completed.stored_at AS completed_at,
       coalesce(catalog.whole_number(completed.data ->> 'files'), catalog.whole_number(telemetry.data ->> 'files')) AS files,
       coalesce(catalog.whole_number(completed.data ->> 'bytes'), catalog.whole_number(telemetry.data ->> 'bytes')) AS bytes,
       coalesce(error.data ->> 'error', error.data ->> 'message') AS error,
       telemetry.data AS telemetry,
       completed.data AS summary
FROM newest
LEFT JOIN catalog.scan_events AS started ON started.key = newest.key AND started.kind = 'started'
LEFT JOIN catalog.scan_events AS telemetry ON telemetry.key = newest.key AND telemetry.kind = 'telemetry'
LEFT JOIN catalog.scan_events AS error ON error.key = newest.key AND error.kind = 'error'
LEFT JOIN catalog.scan_events AS completed ON completed.key = newest.key AND completed.kind = 'completed';
