import gzip
import io
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import boto3
import pandas as pd
import pytest
import smart_open.s3
from boto3.exceptions import RetriesExceededError
from botocore import exceptions
from botocore.parsers import ResponseParserError
from moto import mock_aws

from components.ingest.locations import SourceFiles, list_location, one_file, source_digest
from components.ingest.readers.meds import meds_patients
from components.ingest.s3_errors import s3_errors
from components.ingest.settings import IngestSettings
from data_schemas.errors import InputError, StoreError


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
    (export / ".DS_Store").write_bytes(b"1")
    (export / "observations" / "._a.csv").write_bytes(b"no observations")
    _upload(bucket, export, "ward/demo")
    bucket.put_object(Bucket="cohorts", Key="ward/demo2/other.csv", Body=b"not ours")
    # What no folder lists: a console's markers of folders, and a desktop's own files.
    for key in ("ward/demo/", "ward/demo//", "ward/demo/observations/", "ward/demo/observations/../"):
        bucket.put_object(Bucket="cohorts", Key=key)
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


@pytest.mark.parametrize(
    "name", ["../../evil.csv", "/evil.csv", "b//evil.csv", "./evil.csv", "b/./evil.csv", "b/..", "."]
)
@pytest.mark.parametrize("folder", ["a", "a/", ""])
def test_object_name_cannot_lead_out_of_the_copy(bucket, folder, name):
    bucket.put_object(Bucket="cohorts", Key=f"{folder.strip('/')}/{name}" if folder else name, Body=b"1")
    location = f"s3://cohorts/{folder}"
    for read in (list_location, lambda place: source_digest(_settings(place))):
        with pytest.raises(InputError, match="leads out of the prefix") as raised:
            read(location)
        assert raised.value.file == location and "evil" not in str(raised.value)


def test_object_name_is_no_path_of_this_machine(bucket, tmp_path):
    here = tmp_path / "here.csv"
    for key in (f"a/{here}", "a/fine.csv"):
        bucket.put_object(Bucket="cohorts", Key=key, Body=b"x")
    with ExitStack() as stack, pytest.raises(InputError, match="leads out of the prefix"):
        files = SourceFiles("s3://cohorts/a", stack)
        files.paths(files.names)
    assert not here.exists()


def test_the_same_tree_gives_the_same_listing(bucket, tmp_path):
    names = ["one.csv", ".hidden", "b/two.csv", "b/.two.csv.swp", ".folder/three.csv"]
    for name in names:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(name)
    _upload(bucket, tmp_path / "source", "a")
    here, there = list_location(str(tmp_path / "source")), list_location("s3://cohorts/a")
    assert [(entry.name, entry.size) for entry in here] == [(entry.name, entry.size) for entry in there]
    assert [entry.name for entry in here] == [".folder/three.csv", "b/two.csv", "one.csv"]
    for location in (str(tmp_path / "source" / ".hidden"), "s3://cohorts/a/.hidden"):
        with pytest.raises(InputError, match="is not there, or is empty"):
            list_location(location)


def test_an_object_is_read_as_it_is_stored(bucket):
    content = gzip.compress(b"x,y\n" * 10_000)
    bucket.put_object(Bucket="cohorts", Key="a/p@q/one.csv.gz", Body=content)
    with ExitStack() as stack:
        files = SourceFiles("s3://cohorts/a", stack)
        with files.open("p@q/one.csv.gz") as stream:
            assert stream.read() == content
            assert stream.seek(-8, os.SEEK_END) == stream.tell() == len(content) - 8
            assert stream.read(3) + stream.read() == content[-8:]


MENDED_BY_THE_USER = [
    (400, "ExpiredToken"),
    (401, "Unauthorized"),
    (403, "AccessDenied"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (404, "NoSuchBucket"),
    (404, "NoSuchKey"),
]
MENDED_BY_TIME = [
    (500, "InternalError"),
    (502, "502"),
    (503, "SlowDown"),
    (503, "ServiceUnavailable"),
    (429, "TooManyRequests"),
]
# S3 answers HEAD, by which a download begins, without a word: there they count as other answers with 400 do.
BY_THEIR_WORD = [(400, "RequestTimeout"), (400, "Throttling"), (409, "OperationAborted")]
REFUSALS = [(*answer, InputError) for answer in MENDED_BY_THE_USER] + [
    (*answer, StoreError) for answer in MENDED_BY_TIME
]


@pytest.mark.parametrize(("status", "code", "kind"), REFUSALS)
def test_only_what_the_user_can_mend_is_an_input_error(bucket, s3_answers, status, code, kind):
    bucket.put_object(Bucket="cohorts", Key="a/one.csv", Body=b"1")
    with ExitStack() as stack:
        files = SourceFiles("s3://cohorts/a", stack)
        opened = stack.enter_context(files.open("one.csv"))
        s3_answers(status, code)
        for read, told in (
            (lambda: list_location("s3://cohorts/a"), f"cannot be listed ({code})"),
            (lambda: files.path("one.csv"), f"cannot be downloaded ({status})"),
            (lambda: files.open("one.csv"), f"cannot be read ({code})"),
            (lambda: opened.seek(-1, os.SEEK_END), f"cannot be read ({code})"),
        ):
            with pytest.raises(kind) as raised:
                read()
            line = str(raised.value)
            assert line.startswith(f"s3://cohorts/a: {told}. ") and len(line.splitlines()) == 1


@pytest.mark.parametrize(("status", "code"), BY_THEIR_WORD)
def test_a_refusal_for_now_is_no_input_error(bucket, s3_answers, status, code):
    s3_answers(status, code)
    with pytest.raises(StoreError, match=rf"cannot be listed \({code}\)"):
        list_location("s3://cohorts/a")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.NoCredentialsError(), InputError),
        (exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), InputError),
        (exceptions.ProfileNotFound(profile="ward"), InputError),
        (exceptions.NoRegionError(), InputError),
        (exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 301}}, "ListObjectsV2"), InputError),
        (exceptions.ClientError({}, "ListObjectsV2"), StoreError),
        (exceptions.ParamValidationError(report="Invalid bucket name"), InputError),
        (exceptions.SSLError(endpoint_url="https://s3", error="[SSL: CERTIFICATE_VERIFY_FAILED]"), InputError),
        (exceptions.SSLError(endpoint_url="https://s3", error="EOF occurred"), StoreError),
        (exceptions.EndpointConnectionError(endpoint_url="http://s3"), StoreError),
        (exceptions.ConnectTimeoutError(endpoint_url="http://s3"), StoreError),
        (exceptions.ReadTimeoutError(endpoint_url="http://s3"), StoreError),
        (exceptions.ConnectionClosedError(endpoint_url="http://s3"), StoreError),
        (exceptions.ProxyConnectionError(proxy_url="http://proxy"), StoreError),
        (exceptions.ResponseStreamingError(error="broken"), StoreError),
        (exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), StoreError),
        (exceptions.CredentialRetrievalError(provider="web-identity", error_msg="timed out"), StoreError),
        (RetriesExceededError(exceptions.ReadTimeoutError(endpoint_url="http://s3")), StoreError),
        (ResponseParserError("no XML"), StoreError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_broken_connections_are_no_input_errors(error, kind):
    with (
        pytest.raises(kind, match="s3://ward/a: cannot be listed"),
        s3_errors("s3://ward/a", "cannot be listed", "Check"),
    ):
        raise error


@pytest.mark.parametrize(("answer", "kind"), [(socket.EAI_NONAME, InputError), (socket.EAI_AGAIN, StoreError)])
def test_a_name_that_is_not_there_is_an_input_error_but_a_silent_name_server_is_none(monkeypatch, answer, kind):
    def getaddrinfo(*arguments, **options):
        raise socket.gaierror(answer, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.ward.invalid")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with pytest.raises(kind, match=r"s3://cohorts/a: cannot be listed \(EndpointConnectionError\)") as raised:
        list_location("s3://cohorts/a")
    assert "hush" not in str(raised.value)


def test_a_store_that_breaks_off_does_not_make_a_table_unreadable(bucket, s3_answers):
    stored = io.BytesIO()
    pd.DataFrame({"subject_id": [1], "time": [pd.Timestamp(0)], "code": ["HR"], "numeric_value": [1.0]}).to_parquet(
        stored
    )
    bucket.put_object(Bucket="cohorts", Key="a/one.parquet", Body=stored.getvalue())
    with ExitStack() as stack:
        files = SourceFiles("s3://cohorts/a", stack)
        assert list(meds_patients(files)) == ["1"]
        s3_answers(503, "SlowDown", after=1)
        with pytest.raises(StoreError, match=r"cannot be read \(SlowDown\)"):
            meds_patients(files)


def test_a_connection_that_breaks_while_an_object_is_read_is_no_input_error(bucket, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError("failed to read 5 bytes after 5 attempts")

    bucket.put_object(Bucket="cohorts", Key="a/one.parquet", Body=b"PAR1")
    monkeypatch.setattr(smart_open.s3, "open", lambda *arguments, **options: Broken(b"PAR1" * 9))
    with ExitStack() as stack, pytest.raises(StoreError, match=r"^s3://cohorts/a: cannot be read \(OSError\)"):
        meds_patients(SourceFiles("s3://cohorts/a", stack))


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"M\xfcller.csv", "\\xfc"), (b"ward \xfc/Maier.csv", "\\xfc"), (b"\xc3Maier\xbc.csv", "\\xc3\\xbc")],
)
def test_a_name_that_is_not_utf8_is_told_without_the_name(tmp_path, name, shown):
    source = tmp_path / "source"
    file = Path(os.fsdecode(os.path.join(os.fsencode(source), name)))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("1")
    with pytest.raises(InputError) as raised:
        source_digest(_settings(source))
    told = str(raised.value)
    told.encode()
    assert raised.value.file == str(source) and f"is not UTF-8: it has the bytes {shown}. Rename it" in told
    assert "ller" not in told and "Maier" not in told


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


def test_the_runs_own_workspace_is_no_part_of_a_source_around_it(tmp_path, monkeypatch):
    (tmp_path / "patients.csv").write_text("id\n1\n")
    (tmp_path / "workspaces.csv").write_text("id\n1\n")
    run_folder = tmp_path / "workspace" / "runs" / "1"
    run_folder.mkdir(parents=True)
    (run_folder / "events.jsonl").write_text("{}\n")
    assert [entry.name for entry in list_location(str(tmp_path))][-1] == "workspaces.csv"
    assert len(list_location(str(tmp_path))) == 3
    settings = IngestSettings.model_validate({"name": "x", "sources": [{"format": "export", "path": str(tmp_path)}]})
    before = source_digest(settings, tmp_path / "workspace")
    monkeypatch.setenv("VITALFUSE_RUN_FOLDER", str(run_folder))
    (run_folder / "events.jsonl").write_text("{}\n{}\n")
    assert [entry.name for entry in list_location(str(tmp_path))] == ["patients.csv", "workspaces.csv"]
    assert source_digest(settings) == before


def test_only_files_that_were_read_have_to_stay_as_they_are(tmp_path):
    for name in ("read.csv", "opened.csv", "left.csv"):
        (tmp_path / name).write_text("id\n1\n")
    with ExitStack() as stack:
        files = SourceFiles(str(tmp_path), stack)
        files.path("read.csv")
        files.open("opened.csv").close()
        (tmp_path / "left.csv").unlink()
        (tmp_path / "new.csv").touch()
        files.check_unchanged()
        (tmp_path / "opened.csv").unlink()
        os.utime(tmp_path / "read.csv", ns=(1, 1))
        with pytest.raises(InputError, match="2 of 2 files were written or removed"):
            files.check_unchanged()
