-- Directories without a join: with no statistics yet, right after a first scan, the join of two large parts of the
-- query was planned as a nested loop and took seconds. Each directory's own files come along as what is summed up.

CREATE OR REPLACE VIEW headgate.directories AS
WITH direct AS (
    SELECT directory, count(*) AS files, sum(coalesce(size, 0)) AS bytes
    FROM headgate.files
    GROUP BY directory
), split AS (
    SELECT string_to_array(rtrim(directory, '/'), '/') AS parts, left(directory, 1) = '/' AS is_rooted,
           left(directory, 2) = '//' AS is_share, files, bytes
    FROM direct
), below AS (
    -- Every directory above and including each one that holds files.
    SELECT CASE WHEN depth = 0 THEN '/' ELSE array_to_string(parts[1:depth], '/') END AS directory,
           depth = greatest(cardinality(parts), CASE WHEN is_rooted THEN 0 ELSE 1 END) AS is_itself, files, bytes
    FROM split,
         generate_series(
             CASE WHEN is_rooted THEN 0 ELSE 1 END,
             greatest(cardinality(parts), CASE WHEN is_rooted THEN 0 ELSE 1 END)
         ) AS depth
    WHERE NOT (is_rooted AND depth = 1) AND NOT (is_share AND depth = 2)
)
SELECT directory,
       coalesce(sum(files) FILTER (WHERE is_itself), 0)::bigint AS files,
       coalesce(sum(bytes) FILTER (WHERE is_itself), 0) AS bytes,
       sum(files)::bigint AS total_files,
       sum(bytes) AS total_bytes
FROM below
GROUP BY directory;
