from components.common.events import EventWriter, read_events


def test_events_of_several_steps_come_back_in_order_of_time(tmp_path):
    first, second = EventWriter(tmp_path, "ingest"), EventWriter(tmp_path, "cross_validate[svm]")
    first.write("running")
    second.write("running", text="fold 1/5")
    first.write("done", seconds=1.5)
    events = read_events(tmp_path)
    assert [(event.step, event.state) for event in events] == [
        ("ingest", "running"),
        ("cross_validate[svm]", "running"),
        ("ingest", "done"),
    ]
    assert events[1].text == "fold 1/5"


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
    EventWriter(tmp_path, "ingest").write("running")
    with (tmp_path / "events" / "ingest.jsonl").open("a") as stream:
        stream.write('{"step": "ing')
    assert len(read_events(tmp_path)) == 1


def test_without_a_runner_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    EventWriter(None, "ingest").write("running")
    assert list(tmp_path.iterdir()) == []
