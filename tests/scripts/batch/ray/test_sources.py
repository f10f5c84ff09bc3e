"""Which of the named places are folders of images, and which are Parquet."""

import pytest

from scripts.batch.ray import sources


def test_the_url_of_a_parquet_file_may_have_options(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = list[str]()
    monkeypatch.setattr(sources, "find_stored", stored.append)
    names = ["s3://b/more.parquet?endpoint_override=minio:9000", "kept.parquet", "s3://b/more.parquet"]
    list(sources.find_sources(names))
    assert stored == names
