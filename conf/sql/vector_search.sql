-- Nearest neighbours of a unit vector by the index of the newest release, in this session (temporary function):
--   SELECT * FROM vector_search((SELECT embedding FROM {schema}.current_vectors WHERE id = 'a'), 10)
--   SELECT c.id, s.* FROM {schema}.current_vectors c, LATERAL vector_search(c.embedding, 10) s WHERE c.id < 'b'
-- score is the inner product. `model` names the model_id that made the query; another one than the release's is an
-- error. Rows deleted or changed since the index was built are never returned: more than k hits are taken from the
-- index, and those no longer in current_vectors dropped; where fewer than k are left, all rows are searched exactly.
-- Rows added since always are: vector_id is an identity column, so they are those above the largest one in the index.
--
-- Two rules keep it usable. Scalar subqueries must not refer to `query`, `k` or `model`: Spark takes those of a
-- LATERAL join out of joins, filters and aggregates, but not out of subqueries. And errors are raised in the last
-- line alone, where Spark says them as they are: in a subquery they end in 200 lines of Java.
CREATE OR REPLACE TEMPORARY FUNCTION vector_search(query ARRAY<FLOAT>, k INT, model STRING DEFAULT NULL)
RETURNS TABLE (rank INT, id STRING, vector_id BIGINT, score DOUBLE)
RETURN
  WITH released AS (
    SELECT
      -- What lies in the lake is named from its root, wherever that is now.
      IF(startswith(newest.root, './'), {root} || substring(newest.root, 2), newest.root) AS root,
      newest.model_id, newest.manifest_sha256
    FROM (
      SELECT max_by(struct(i.root, r.model_id, i.manifest_sha256), r.release_id) AS newest
      FROM {schema}.releases r LEFT JOIN {schema}.indexes i ON r.index_id = i.index_id
    )
  ),
  opened AS (
    SELECT r.root, r.model_id, r.manifest_sha256, f.rows, f.last_vector_id, f.error
    FROM released r, LATERAL gme_index_facts(r.root, r.model_id, r.manifest_sha256) f
  ),
  asked AS (
    -- As columns: a table function in a lateral join cannot be given the parameters of this one.
    SELECT
      query, k, root, model_id, manifest_sha256, rows,
      5 * coalesce(k, 0) + 200 AS fetched,
      CASE
        WHEN error IS NOT NULL THEN error
        WHEN model <> model_id THEN 'the query is of model ' || model || ' but the release is of ' || model_id
        WHEN query IS NULL THEN 'the query is NULL'
        WHEN NOT coalesce(k BETWEEN 1 AND 1000, false) THEN 'k must be 1 to 1000'
      END AS refused
    FROM opened
  ),
  hits AS (
    SELECT h.vector_id, h.score, h.error, a.refused
    FROM asked a,
      LATERAL gme_index_hits(
        IF(a.refused IS NULL, a.query, NULL), a.fetched, a.root, a.model_id, a.manifest_sha256
      ) h
  ),
  kept AS (
    SELECT /*+ BROADCAST(hits) */ v.id, v.vector_id, hits.score
    FROM {schema}.current_vectors v JOIN hits ON v.vector_id = hits.vector_id
  ),
  -- Fewer than k hits are enough only where the whole index was fetched: the next row of the index may be nearer than
  -- any that is new.
  searched AS (
    SELECT
      a.query, a.k, a.model_id AS searched_id, coalesce(a.refused, f.error) AS error, n.found,
      size(n.found) < a.k AND a.fetched < a.rows AS short
    FROM asked a, (SELECT max(error) AS error FROM hits) f,
      (SELECT collect_list(struct(-score AS below, vector_id, id)) AS found FROM kept) n
  ),
  fresh AS (
    SELECT collect_list(struct(-score AS below, vector_id, id)) AS found
    FROM (
      SELECT *, row_number() OVER (ORDER BY score DESC, vector_id) AS rank
      FROM (
        SELECT /*+ BROADCAST(searched) */ id, vector_id, CAST({inner_product} AS DOUBLE) AS score
        FROM {schema}.current_vectors, searched
        WHERE error IS NULL AND vector_id > (SELECT last_vector_id FROM opened)
      )
    )
    WHERE rank <= k
  ),
  indexed AS (
    SELECT collect_list(struct(-score AS below, vector_id, id)) AS found
    FROM (
      SELECT *, row_number() OVER (ORDER BY score DESC, vector_id) AS rank
      FROM (
        SELECT /*+ BROADCAST(searched) */ id, vector_id, CAST({inner_product} AS DOUBLE) AS score
        -- By equality of a partition column: Spark then reads nothing where no query is short, as is usual.
        FROM {schema}.current_vectors JOIN searched ON model_id = searched_id
        WHERE error IS NULL AND short AND vector_id <= (SELECT last_vector_id FROM opened)
      )
    )
    WHERE rank <= k
  )
  -- Arrays, not a UNION: Spark 4.2.0 cannot take the query of a LATERAL join out of one.
  SELECT CAST(place + 1 AS INT) AS rank, hit.id, hit.vector_id, -hit.below AS score
  FROM (
    SELECT posexplode(IF(
        s.error IS NULL,
        slice(array_sort(concat(IF(s.short, indexed.found, s.found), fresh.found)), 1, s.k),
        raise_error('vector_search: ' || s.error)
      )) AS (place, hit)
    FROM searched s, fresh, indexed
  )
