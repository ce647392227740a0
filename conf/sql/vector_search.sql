-- Nearest neighbours of a unit vector by the index of the newest release, in this session (temporary function):
--   SELECT * FROM vector_search((SELECT embedding FROM {schema}.current_vectors WHERE id = 'a'), 10)
-- score is the inner product. `model` names the model_id that made the query; another one than the release's is an
-- error. Rows deleted or changed since the index was built are never returned: more than k hits are taken from the
-- index, and those no longer in current_vectors dropped; where fewer than k are left, all rows are searched exactly.
-- Rows added since always are: vector_id is an identity column, so they are those above the largest one in the index.
CREATE OR REPLACE TEMPORARY FUNCTION vector_search(query ARRAY<FLOAT>, k INT, model STRING DEFAULT NULL)
RETURNS TABLE (rank INT, id STRING, vector_id BIGINT, score DOUBLE)
RETURN
  WITH target AS (
    SELECT
      CASE
        WHEN root IS NULL THEN raise_error('vector_search: no index is released; run gme-lake release promote')
        WHEN model <> model_id THEN raise_error('vector_search: the query is of model ' || model
          || ' but the release is of ' || model_id)
        -- What lies in the lake is named from its root, wherever that is now.
        WHEN startswith(root, './') THEN {root} || substring(root, 2)
        ELSE root
      END AS root,
      model_id,
      manifest_sha256
    FROM (
      SELECT newest.root, newest.model_id, newest.manifest_sha256
      FROM (
        SELECT max_by(struct(i.root, r.model_id, i.manifest_sha256), r.release_id) AS newest
        FROM {schema}.releases r LEFT JOIN {schema}.indexes i ON r.index_id = i.index_id
      )
    )
  ),
  opened AS (
    SELECT f.rows, f.last_vector_id
    FROM target t, LATERAL gme_index_facts(t.root, t.model_id, t.manifest_sha256) f
  ),
  asked AS (
    -- As columns: a table function in a lateral join cannot be given the parameters of this one.
    SELECT
      IF(query IS NULL, raise_error('vector_search: the query is NULL'), query) AS query,
      5 * coalesce(k, 0) + 200 AS fetched,
      target.*
    FROM target
  ),
  hits AS (
    SELECT h.vector_id, h.score
    FROM asked a, LATERAL gme_index_hits(a.query, a.fetched, a.root, a.model_id, a.manifest_sha256) h
  ),
  kept AS (
    SELECT /*+ BROADCAST(hits) */ v.id, v.vector_id, hits.score
    FROM {schema}.current_vectors v JOIN hits ON v.vector_id = hits.vector_id
  ),
  bound AS (
    -- Rows with larger vector_ids are searched exactly. Fewer than k hits are enough only where the whole index was
    -- fetched: the next row of the index may be nearer than any that is new.
    SELECT IF((SELECT count(*) FROM kept) < k AND 5 * k + 200 < rows, -1, last_vector_id) AS indexed FROM opened
  ),
  found AS (
    SELECT id, vector_id, score FROM kept WHERE vector_id <= (SELECT indexed FROM bound)
    UNION ALL
    SELECT id, vector_id, CAST({inner_product} AS DOUBLE) AS score
    FROM {schema}.current_vectors
    WHERE vector_id > (SELECT indexed FROM bound)
  ),
  best AS (
    SELECT array_sort(collect_list(struct(rank, id, vector_id, score))) AS rows
    FROM (
      SELECT CAST(row_number() OVER (ORDER BY score DESC, vector_id) AS INT) AS rank, id, vector_id, score
      FROM found
    )
    WHERE rank <= k
  )
  SELECT inline(CASE
    WHEN NOT coalesce(k BETWEEN 1 AND 1000, false) THEN raise_error('vector_search: k must be 1 to 1000')
    ELSE rows
  END)
  FROM best
