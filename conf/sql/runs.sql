-- What the jobs did: one row a run, as it ended, or as far as it was last known where it has not ended.
CREATE OR REPLACE VIEW {schema}.runs AS
SELECT run.*
FROM (SELECT max_by(struct(*), struct(ended_at IS NOT NULL, coalesce(beat_at, started_at))) AS run FROM {schema}.run_events GROUP BY run_id)
