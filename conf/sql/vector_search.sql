-- Nearest neighbours of a unit vector by the index of the newest release, in this session (temporary function):
--   SELECT * FROM vector_search((SELECT embedding FROM {schema}.current_vectors WHERE id = 'a'), 10)
-- score is the inner product. Rows deleted or changed since the index was built are never returned: some more hits
-- are taken from the index (spare), and those no longer in current_vectors dropped. Rows added since are searched
-- exactly: vector_id is an identity column, so they are those above the largest one in the index.
-- `model` names the model_id that made the query; another one than the release's is an error.
CREATE OR REPLACE TEMPORARY FUNCTION vector_search(query ARRAY<FLOAT>, k INT, model STRING DEFAULT NULL)
RETURNS TABLE (rank INT, id STRING, vector_id BIGINT, score DOUBLE)
RETURN
  WITH target AS (
    SELECT
      CASE
        WHEN root IS NULL THEN raise_error('vector_search: no index is released; run gme-lake release promote')
        WHEN model <> model_id THEN raise_error('vector_search: the query is of model ' || model
          || ' but the release is of ' || model_id)
        ELSE root
      END AS root,
      model_id,
      IF(k BETWEEN 1 AND 1000, k, raise_error('vector_search: k must be 1 to 1000')) AS k
    FROM (
      SELECT max_by(i.root, r.release_id) AS root, max_by(i.model_id, r.release_id) AS model_id
      FROM {schema}.releases r JOIN {schema}.indexes i ON r.index_id = i.index_id
      WHERE r.release_id = (SELECT max(release_id) FROM {schema}.releases)
    )
  ),
  opened AS (
    SELECT target.*, facts.* FROM target, LATERAL gme_index_facts(target.root, target.model_id) facts
  ),
  live AS (
    SELECT count(*) AS rows, count_if(vector_id <= (SELECT last_vector_id FROM opened)) AS indexed
    FROM {schema}.current_vectors
  ),
  hits AS (
    SELECT h.vector_id, h.score
    FROM (
      SELECT opened.*, CAST(least(opened.k + least(opened.rows - live.indexed, 4 * opened.k + 1000), opened.rows) AS INT)
        AS fetched
      FROM opened CROSS JOIN live
    ) i, LATERAL gme_index_hits(query, i.fetched, i.root, i.model_id) h
  ),
  found AS (
    SELECT /*+ BROADCAST(hits) */ v.id, v.vector_id, hits.score
    FROM {schema}.current_vectors v JOIN hits ON v.vector_id = hits.vector_id
    UNION ALL
    SELECT id, vector_id, CAST({inner_product} AS DOUBLE)
    FROM {schema}.current_vectors
    WHERE vector_id > (SELECT last_vector_id FROM opened)
  ),
  best AS (
    SELECT array_sort(collect_list(struct(rank, id, vector_id, score))) AS rows
    FROM (
      SELECT CAST(row_number() OVER (ORDER BY score DESC, vector_id) AS INT) AS rank, id, vector_id, score
      FROM found
    )
    WHERE rank <= k
  )
  SELECT inline(IF(
    size(best.rows) < least(k, live.rows),
    raise_error('vector_search: too many of the nearest rows are gone since the index was built; run '
      || 'gme-lake build-index and release promote'),
    best.rows))
  FROM best CROSS JOIN live
