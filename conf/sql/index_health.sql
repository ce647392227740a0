-- How far each index is from the vectors that its model has now. Vectors are counted by the commit that wrote them, which
-- all their rows have the time of: few rows to join. The rows of an index are in its files, so what is told here is the
-- least that can be the case; gme-lake status compares row by row, and measures drift.
CREATE OR REPLACE VIEW {schema}.index_health (
  index_id,
  model_id,
  is_released COMMENT 'whether it is the index of the current release',
  factory,
  rows,
  model_rows COMMENT 'rows of its model that have a vector now',
  not_indexed COMMENT 'rows of its model that are not in it, at least: those embedded since built_at, or more by count',
  gone COMMENT 'rows in it that were changed or deleted since, at least',
  not_indexed_share COMMENT 'share of model_rows that are not in it, 0 to 1; null: its model has no vectors',
  built_at,
  age_hours COMMENT 'hours since built_at',
  bytes,
  shards,
  run_id
)
COMMENT 'One row for each index: its size and age, and how many rows of its model it lacks.'
AS SELECT index_id, model_id,
  coalesce(index_id = (SELECT max_by(index_id, release_id) FROM {schema}.releases), false) AS is_released,
  factory, rows, model_rows, not_indexed, rows - model_rows + not_indexed AS gone,
  not_indexed / nullif(model_rows, 0) AS not_indexed_share,
  built_at, (unix_micros(current_timestamp()) - unix_micros(built_at)) / 3.6e9D AS age_hours, bytes, shards, run_id
FROM (
  SELECT i.*, v.model_rows, greatest(v.later, v.model_rows - i.rows) AS not_indexed
  FROM {schema}.indexes i
  JOIN (
    SELECT n.index_id, coalesce(sum(c.rows), 0) AS model_rows,
      coalesce(sum(c.rows) FILTER (WHERE c.embedded_at > n.built_at), 0) AS later
    FROM {schema}.indexes n
    LEFT JOIN (
      SELECT model_id, embedded_at, count(*) AS rows
      FROM {schema}.vectors WHERE status = 'ok' GROUP BY model_id, embedded_at
    ) c ON n.model_id = c.model_id
    GROUP BY n.index_id
  ) v ON i.index_id = v.index_id
)
