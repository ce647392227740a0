-- How much of what was embedded has a vector, by model. Rows of the source that no run has looked at are not counted here.
CREATE OR REPLACE VIEW {schema}.coverage (
  model_id COMMENT 'the model, by a hash of weights and settings',
  model_name COMMENT 'its name in the registry, as the newest run said that used it',
  model_version COMMENT 'its version in the registry, as the newest run said that used it',
  is_released COMMENT 'whether it is the model of the current release',
  rows COMMENT 'rows of the source that were embedded or rejected',
  with_vector COMMENT 'rows that have a vector',
  rejected COMMENT 'rows that have none; of the released model view rejected_rows says why',
  share COMMENT 'share of rows that have a vector, 0 to 1',
  by_status COMMENT 'rows by status: ok, or why there is no vector',
  shares COMMENT 'share of rows by status, 0 to 1',
  embedded_at COMMENT 'when the newest of the rows was written'
)
COMMENT 'One row for each model: how many rows have a vector, how many were rejected, and why.'
AS SELECT v.model_id, n.named.model_name, n.named.model_version,
  coalesce(v.model_id = (SELECT max_by(model_id, release_id) FROM {schema}.releases), false) AS is_released,
  v.rows, v.with_vector, v.rows - v.with_vector AS rejected, v.with_vector / v.rows AS share,
  map_from_entries(v.statuses) AS by_status,
  map_from_entries(transform(v.statuses, s -> struct(s.status, s.rows / v.rows))) AS shares,
  v.embedded_at
FROM (
  SELECT model_id, sum(rows) AS rows, coalesce(sum(rows) FILTER (WHERE status = 'ok'), 0) AS with_vector,
    array_sort(collect_list(struct(status, rows))) AS statuses, max(embedded_at) AS embedded_at
  FROM (
    SELECT model_id, status, count(*) AS rows, max(embedded_at) AS embedded_at
    FROM {schema}.vectors GROUP BY model_id, status
  )
  GROUP BY model_id
) v
LEFT JOIN (
  SELECT model_id, max_by(struct(model_name, model_version), started_at) AS named
  FROM {schema}.run_events WHERE model_id IS NOT NULL GROUP BY model_id
) n ON v.model_id = n.model_id
