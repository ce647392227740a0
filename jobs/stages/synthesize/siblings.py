"""Pairs of catalogues: the picture of a product and a change, and the picture of the product that it leads to."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.settings.synthesize import SynthesizeSettings
from jobs.stages.synthesize.asking import Asking
from jobs.stages.synthesize.rejects import Rejects
from jobs.stages.synthesize.words import judge

_ROWS_OF_A_VALUE = 4  # that are looked at for a change to this value


def siblings_by_attributes(passages: DataFrame, settings: SynthesizeSettings) -> DataFrame:
    """(passage_id, target_id, change, product, requests): changes of one attribute, in words by fixed forms.

    `product` names the target by all its values: all rows with them are right answers. Ids alone are joined.
    """
    rows = passages.where("has_picture AND NOT exists(attributes, x -> x IS NULL)")
    rows = rows.select("passage_id", "domain", "attributes")
    numbers = F.array(*(F.lit(n) for n in range(len(settings.attributes))))
    each = rows.select("*", F.explode(numbers).alias("at")).select(
        "passage_id",
        "domain",
        "attributes",
        "at",
        F.expr("attributes[at]").alias("value"),
        F.to_json(F.expr("transform(attributes, (x, i) -> IF(i = at, '', x))")).alias("others"),
    )
    order = F.xxhash64("passage_id", "at", F.lit(settings.seed))
    of_value = Window.partitionBy("at", "others", "value").orderBy(order, "passage_id")
    few = each.withColumn("place", F.row_number().over(of_value)).where(
        F.col("place") <= _ROWS_OF_A_VALUE
    )
    one = F.struct("value", F.col("passage_id").alias("id"), "attributes")
    lists = few.groupBy("at", "others").agg(F.sort_array(F.collect_list(one)).alias("found"))
    both = each.join(lists, ["at", "others"]).withColumn(
        "found", F.expr("filter(found, x -> x.value <> value)")
    )
    both = both.where(F.size("found") > 0)
    number = F.pmod(F.xxhash64("passage_id", "at", F.lit(settings.seed), F.lit(1)), F.size("found"))
    chosen = F.element_at("found", number.cast("int") + 1)
    both = both.withColumn("target", chosen)
    place = F.row_number().over(Window.partitionBy("passage_id").orderBy(order))
    kept = both.withColumn("place", place).where(F.col("place") <= settings.changes)
    return kept.select(
        "passage_id",
        "domain",
        F.col("target.id").alias("target_id"),
        _word_change(settings).alias("change"),
        F.concat_ws("/", "target.attributes").alias("product"),
        F.array().cast("array<string>").alias("requests"),
    )


def siblings_by_model(asking: Asking, rejects: Rejects, passages: DataFrame) -> DataFrame:
    """As `siblings_by_attributes`, of each row to the next of its siblings, in the words of the language model."""
    seed = asking.settings.seed
    rows = passages.where("has_picture AND text IS NOT NULL AND siblings IS NOT NULL")
    order = Window.partitionBy("siblings").orderBy(F.xxhash64("passage_id", F.lit(seed)))
    following = F.lead(F.struct("passage_id", "text")).over(order)
    rows = rows.withColumn("next", following).where("next IS NOT NULL")
    asked = rows.select(
        "passage_id",
        "domain",
        "text",
        F.col("next.text").alias("other"),
        F.col("next.passage_id").alias("target_id"),
    )
    judged = judge(asking, rejects, "change", asked)
    return judged.join(asked.select("passage_id", "target_id"), "passage_id").select(
        "passage_id",
        "domain",
        "target_id",
        "change",
        F.col("target_id").alias("product"),
        F.array("request_id").alias("requests"),
    )


def _word_change(settings: SynthesizeSettings) -> Column:
    """The change in words: a form by the row's hash, with the attribute's name and the target's value."""
    names = F.array(*(F.lit(name) for name in settings.attributes))
    value, name = F.col("target.value"), F.element_at(names, F.col("at") + 1)
    forms = (
        F.concat(F.lit("the same but "), value),
        F.concat(F.lit("this one, but "), value),
        F.concat(F.lit("the same with "), name, F.lit(" "), value),
    )
    number = F.pmod(F.xxhash64("passage_id", "at", F.lit(settings.seed)), F.lit(len(forms)))
    return F.element_at(F.array(*forms), number.cast("int") + 1)
