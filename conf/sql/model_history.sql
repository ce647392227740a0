-- What was shown when. A rollback is a release too: its note says from which and to which it went.
CREATE OR REPLACE VIEW {schema}.model_history (
  release_id,
  model_id,
  model_name COMMENT 'its name in the registry, as the newest run said that used it',
  model_version COMMENT 'its version in the registry, as the newest run said that used it',
  index_id,
  vectors_version,
  released_at,
  replaced_at COMMENT 'when the next release took its place; null: it is current',
  by_run,
  note
)
COMMENT 'One row for each release: which model and index were shown, from when until when, by which run, and why.'
AS SELECT r.release_id, r.model_id, n.named.model_name, n.named.model_version, r.index_id, r.vectors_version,
  r.released_at, lead(r.released_at) OVER (ORDER BY r.release_id) AS replaced_at, r.by_run, r.note
FROM {schema}.releases r
LEFT JOIN (
  SELECT model_id, max_by(struct(model_name, model_version), started_at) AS named
  FROM {schema}.run_events WHERE model_id IS NOT NULL GROUP BY model_id
) n ON r.model_id = n.model_id
