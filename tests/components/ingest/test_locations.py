import os
from contextlib import ExitStack

import boto3
import pytest
from moto import mock_aws

from components.ingest.locations import SourceFiles, list_location, one_file, source_digest
from components.ingest.settings import IngestSettings
from data_schemas.errors import InputError


@pytest.fixture
def bucket(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="cohorts")
        yield client


def _upload(client, folder, prefix):
    for file in folder.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), "cohorts", f"{prefix}/{file.relative_to(folder).as_posix()}")


def _settings(path):
    return IngestSettings.model_validate({"name": "x", "sources": [{"format": "export", "path": str(path)}]})


def test_export_on_s3_gives_the_same_cohort(bucket, export, ingest):
    _upload(bucket, export, "ward/demo")
    bucket.put_object(Bucket="cohorts", Key="ward/demo2/other.csv", Body=b"not ours")
    _, local = ingest({"format": "export", "path": str(export)})
    _, remote = ingest({"format": "export", "path": "s3://cohorts/ward/demo"}, output="remote")
    assert remote.manifest.digest == local.manifest.digest
    assert remote.rejected.equals(local.rejected)
    assert remote.manifest.sources == local.manifest.sources


def test_single_object_and_removal_of_the_copy(bucket):
    bucket.put_object(Bucket="cohorts", Key="a/labels.csv", Body=b"x,y\n")
    bucket.put_object(Bucket="cohorts", Key="a/labels.csv.old", Body=b"x,y\n")
    with ExitStack() as stack:
        files, name = one_file("s3://cohorts/a/labels.csv", stack)
        assert name == "labels.csv" and files.name == "labels.csv"
        path = files.path(name)
        assert path.read_bytes() == b"x,y\n"
        assert [file.name for file in path.parent.iterdir()] == ["labels.csv"]
    assert not path.exists()


def test_folder_is_no_single_file(bucket, tmp_path):
    bucket.put_object(Bucket="cohorts", Key="a/labels.csv", Body=b"x,y\n")
    (tmp_path / "a.csv").write_text("x,y\n")
    for location in ("s3://cohorts/a", str(tmp_path)):
        with ExitStack() as stack, pytest.raises(InputError, match="is a folder, not a file"):
            one_file(location, stack)


def test_objects_are_fetched_when_they_are_asked_for(bucket):
    for name in ("b/two.csv", "one.csv", "b-c/three.parquet"):
        bucket.put_object(Bucket="cohorts", Key=f"a/{name}", Body=name.encode())
    with ExitStack() as stack:
        files = SourceFiles("s3://cohorts/a", stack)
        assert files.names == ["b/two.csv", "b-c/three.parquet", "one.csv"]
        assert files.below("b", ".csv") == ["b/two.csv"] and files.size("one.csv") == 7
        path = files.path("one.csv")
        assert [file.name for file in path.parent.rglob("*")] == ["one.csv"]
        with files.open("b/two.csv") as stream:
            stream.seek(2)
            assert stream.read() == b"two.csv"
        assert [file.name for file in path.parent.rglob("*")] == ["one.csv"]


def test_digest_of_a_prefix_follows_its_objects(bucket):
    bucket.put_object(Bucket="cohorts", Key="a/one.csv", Body=b"1")
    before = source_digest(_settings("s3://cohorts/a"))
    assert source_digest(_settings("s3://cohorts/a")) == before
    bucket.put_object(Bucket="cohorts", Key="a/one.csv", Body=b"2")
    assert source_digest(_settings("s3://cohorts/a")) != before


@pytest.mark.parametrize("location", ["s3://cohorts/nothing", "s3://no-such-bucket/a"])
def test_absent_prefix_or_bucket(bucket, location):
    with pytest.raises(InputError) as raised:
        source_digest(_settings(location))
    assert raised.value.file == location


def test_object_name_cannot_lead_out_of_the_copy(bucket):
    bucket.put_object(Bucket="cohorts", Key="a/../../evil.csv", Body=b"1")
    with ExitStack() as stack, pytest.raises(InputError, match="leads out of the prefix"):
        SourceFiles("s3://cohorts/a", stack)


def test_digest_of_a_folder_follows_names_sizes_and_times(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.csv").write_text("1")
    digests = {source_digest(_settings(folder))}
    assert digests == {source_digest(_settings(folder))}
    (folder / "a.csv").write_text("12")
    digests.add(source_digest(_settings(folder)))
    os.utime(folder / "a.csv", (1, 1))
    digests.add(source_digest(_settings(folder)))
    (folder / "b.csv").write_text("1")
    digests.add(source_digest(_settings(folder)))
    assert len(digests) == 4
    (folder / ".hidden").write_text("1")
    assert [entry.name for entry in list_location(str(folder))] == ["a.csv", "b.csv"]
