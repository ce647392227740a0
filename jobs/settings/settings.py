"""Everything a job can be told: one frozen section of settings per concern, unknown keys are errors."""

from __future__ import annotations

from jobs.settings.duplicates import DuplicatesSettings
from jobs.settings.embed import EmbedSettings, ModelSettings, ServingSettings, SourceSettings
from jobs.settings.evaluate import EvaluateSettings
from jobs.settings.index import IndexSettings, RecallSettings, TuneSettings
from jobs.settings.join import JoinSettings
from jobs.settings.lake import LakeSettings, MlflowSettings, ReleaseSettings, SparkSettings
from jobs.settings.metrics import MetricsSettings
from jobs.settings.refresh import GateSettings, PlanSettings, RefreshSettings
from jobs.settings.search import SearchSettings
from jobs.settings.section import Section
from jobs.settings.serve import ServeSqlSettings
from jobs.settings.synthesize import SynthesizeSettings
from jobs.settings.train import AblateSettings, DrawSettings, MineSettings, TrainSettings


class Settings(Section):
    """Everything a job can be told."""

    lake: LakeSettings = LakeSettings()
    source: SourceSettings = SourceSettings()
    model: ModelSettings = ModelSettings()
    embed: EmbedSettings = EmbedSettings()
    serving: ServingSettings = ServingSettings()
    index: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    duplicates: DuplicatesSettings = DuplicatesSettings()
    join: JoinSettings = JoinSettings()
    release: ReleaseSettings = ReleaseSettings()
    spark: SparkSettings = SparkSettings()
    mlflow: MlflowSettings = MlflowSettings()
    draw: DrawSettings = DrawSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    mine: MineSettings = MineSettings()
    synthesize: SynthesizeSettings = SynthesizeSettings()
    ablate: AblateSettings = AblateSettings()
    recall: RecallSettings = RecallSettings()
    tune: TuneSettings = TuneSettings()
    plan: PlanSettings = PlanSettings()
    gate: GateSettings = GateSettings()
    refresh: RefreshSettings = RefreshSettings()
    metrics: MetricsSettings = MetricsSettings()
    serve_sql: ServeSqlSettings = ServeSqlSettings()

    def to_json(self) -> str:
        """All of them as `runs` keeps them, under the names that users give."""
        return self.model_dump_json(by_alias=True)
