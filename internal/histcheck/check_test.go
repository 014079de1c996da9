package histcheck

import (
	"testing"
	"time"
)

// TestRules gives each rule a short recording that keeps it and one that breaks it.
func TestRules(t *testing.T) {
	t.Parallel()
	two := func(r *Recorder) { // records a and b, and a client at the beginning
		r.Join("c", "", true)
		r.Joined("c", Reply{Pos: "e-0-0000", Why: "new"})
		for i, id := range []string{"a", "b"} {
			r.Append("s", id, "")
			r.Appended(id, []string{"e-1-aaaa", "e-2-bbbb"}[i])
		}
	}
	for name, test := range map[string]struct {
		rule Rule // empty if none is broken
		run  func(r *Recorder)
	}{
		"all received": {"", func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
		}},
		"a position of two records": {Unique, func(r *Recorder) {
			two(r)
			r.Append("t", "x", "")
			r.Appended("x", "e-2-bbbb")
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
		}},
		"a malformed position": {Unique, func(r *Recorder) {
			r.Append("t", "x", "")
			r.Appended("x", "e-2")
		}},
		"received in the wrong order": {Growing, func(r *Recorder) {
			two(r)
			r.Received("c", "e-2-bbbb", "b")
			r.Received("c", "e-1-aaaa", "a")
		}},
		"received after the end": {Growing, func(r *Recorder) {
			two(r)
			r.Cut("c")
			r.Received("c", "e-1-aaaa", "a")
		}},
		"a hole": {NoHole, func(r *Recorder) {
			two(r)
			r.Received("c", "e-2-bbbb", "b")
		}},
		"a hole where the client's own record is": {"", func(r *Recorder) {
			r.Join("c", "", true)
			r.Joined("c", Reply{Pos: "e-0-0000", Why: "new"})
			r.Append("s", "a", "c")
			r.Appended("a", "e-1-aaaa")
			r.Append("s", "b", "")
			r.Appended("b", "e-2-bbbb")
			r.Received("c", "e-2-bbbb", "b")
		}},
		"moved over a record of another": {NoHole, func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Moved("c", "e-2-bbbb")
		}},
		"moved over its own record": {"", func(r *Recorder) {
			r.Join("c", "", true)
			r.Joined("c", Reply{Pos: "e-0-0000", Why: "new"})
			r.Append("c", "a", "c")
			r.Appended("a", "e-1-aaaa")
			r.Moved("c", "e-1-aaaa")
		}},
		"the last is missing": {Delivered, func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
		}},
		"behind at the end": {AtTop, func(r *Recorder) {
			r.Join("c", "", true)
			r.Joined("c", Reply{Pos: "e-0-0000", Why: "new"})
			r.Append("c", "a", "c")
			r.Appended("a", "e-1-aaaa")
		}},
		"a later append has the lower offset": {RealTime, func(r *Recorder) {
			r.Append("s", "a", "")
			r.Appended("a", "e-2-aaaa")
			r.Append("t", "b", "")
			r.Appended("b", "e-1-bbbb")
		}},
		"appends that overlap have either order": {"", func(r *Recorder) {
			r.Append("s", "a", "")
			r.Append("t", "b", "")
			r.Appended("a", "e-2-aaaa")
			r.Appended("b", "e-1-bbbb")
		}},
		"a sender's records are swapped": {SenderOrder, func(r *Recorder) {
			r.Append("s", "a", "")
			r.Uncertain("a")
			r.Append("s", "b", "")
			r.Appended("b", "e-1-bbbb")
			r.Join("c", "", true)
			r.Joined("c", Reply{Pos: "e-1-bbbb", Why: "new"})
			r.Received("c", "e-2-aaaa", "a")
		}},
		"a record twice": {Once, func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "a")
		}},
		"a failed append": {Once, func(r *Recorder) {
			two(r)
			r.Append("s", "x", "")
			r.Failed("x")
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
			r.Received("c", "e-3-xxxx", "x")
		}},
		"the log lost the last record": {"", func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Lost("b", "e-2-bbbb")
		}},
		"a record was lost and its offset used again": {"", func(r *Recorder) {
			two(r)
			r.Lost("b", "e-2-bbbb")
			r.Append("s", "x", "")
			r.Appended("x", "e-2-xxxx")
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-xxxx", "x")
		}},
		"records that were lost, one after the other": {"", func(r *Recorder) {
			two(r)
			r.Lost("a", "e-1-aaaa")
			r.Lost("b", "e-2-bbbb")
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
		}},
		"another record after one that was lost": {Continued, func(r *Recorder) {
			two(r)
			r.Append("s", "x", "")
			r.Appended("x", "e-3-xxxx")
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
			r.Received("c", "e-3-xxxx", "x")
			r.Lost("b", "e-2-bbbb")
		}},
		"a callback that loaded while the log had another end": {"", func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
			r.Append("s", "x", "")
			r.Uncertain("x")
			r.Join("d", "", true)
			r.Joined("d", Reply{Pos: "e-2-xxxx", Why: "new", Loaded: true, Snapshot: []string{"a", "x"}})
			r.Lost("x", "e-2-xxxx")
			r.Cut("d")
		}},
		"a callback that did not load all": {Snapshot, func(r *Recorder) {
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
			r.Join("d", "", true)
			r.Joined("d", Reply{Pos: "e-2-bbbb", Why: "new", Loaded: true, Snapshot: []string{"b"}})
		}},
		"a join between a lost record and another": {"", func(r *Recorder) {
			two(r)
			r.Append("s", "x", "")
			r.Appended("x", "e-3-xxxx")
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
			r.Lost("b", "e-2-bbbb")
			r.Fault("tag")
			r.Join("c", "e-2-bbbb", true)
			r.Joined("c", Reply{Pos: "e-3-xxxx", Why: "tag"})
		}},
		"a record that nobody appended": {Once, func(r *Recorder) {
			r.Join("c", "", true)
			r.Joined("c", Reply{Pos: "e-0-0000", Why: "new"})
			r.Received("c", "e-1-aaaa", "a")
		}},
		"refused for no cause": {Cause, func(r *Recorder) {
			r.Join("c", "e-0-0000", true)
			r.Joined("c", Reply{Pos: "e-0-0000", Why: "epoch"})
		}},
		"refused after a fault": {"", func(r *Recorder) {
			r.Fault("epoch")
			r.Join("c", "e-0-0000", true)
			r.Joined("c", Reply{Pos: "f-0-0000", Why: "epoch"})
		}},
		"refused for a fault that came before its position": {Cause, func(r *Recorder) {
			r.Fault("epoch")
			two(r)
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
			r.Cut("c")
			r.Join("c", "e-2-bbbb", true)
			r.Joined("c", Reply{Pos: "f-0-0000", Why: "epoch"})
		}},
		"too many, which is not true": {Cause, func(r *Recorder) {
			two(r)
			r.Cut("c")
			r.Join("c", "e-0-0000", true)
			r.Joined("c", Reply{Pos: "e-2-bbbb", Why: "many"})
		}},
		"recovered from another position": {Cause, func(r *Recorder) {
			two(r)
			r.Cut("c")
			r.Join("c", "e-1-aaaa", true)
			r.Joined("c", Reply{Pos: "e-2-bbbb", Recovered: true})
		}},
		"frames of the old join before the new reply": {"", func(r *Recorder) {
			two(r)
			r.Join("c", "e-0-0000", true)
			r.Received("c", "e-1-aaaa", "a")
			r.Joined("c", Reply{Pos: "e-0-0000", Recovered: true})
			r.Received("c", "e-1-aaaa", "a")
			r.Received("c", "e-2-bbbb", "b")
		}},
		"a position for a client that did not ask": {Cause, func(r *Recorder) {
			r.Join("c", "", false)
			r.Joined("c", Reply{})
			r.Append("s", "a", "")
			r.Appended("a", "e-1-aaaa")
			r.Received("c", "e-1-aaaa", "a")
		}},
		"a hole between the callback and the reply": {Snapshot, func(r *Recorder) {
			r.Append("s", "a", "")
			r.Appended("a", "e-1-aaaa")
			r.Join("c", "", true)
			r.Joined("c", Reply{Pos: "e-1-aaaa", Why: "new", Loaded: true})
		}},
		"a hole for a client that did not ask": {Snapshot, func(r *Recorder) {
			r.Join("c", "", false)
			r.Append("s", "a", "")
			r.Appended("a", "e-1-aaaa")
			r.Joined("c", Reply{Loaded: true})
		}},
		"a hole for a client that did not ask and left": {Snapshot, func(r *Recorder) {
			r.Join("d", "", true)
			r.Joined("d", Reply{Pos: "e-0-0000", Why: "new"})
			r.Join("c", "", false)
			for i, id := range []string{"a", "b"} {
				r.Append("s", id, "")
				r.Appended(id, []string{"e-1-aaaa", "e-2-bbbb"}[i])
				r.Received("d", []string{"e-1-aaaa", "e-2-bbbb"}[i], id)
			}
			r.Joined("c", Reply{Loaded: true})
			r.Received("c", "", "b")
			r.Cut("c")
		}},
		"loaded and received": {"", func(r *Recorder) {
			r.Append("s", "a", "")
			r.Join("c", "", false)
			r.Joined("c", Reply{Loaded: true, Snapshot: []string{"a"}})
			r.Appended("a", "e-1-aaaa")
			r.Received("c", "", "a")
		}},
		"received from before its reach": {Reach, func(r *Recorder) {
			two(r)
			r.Join("d", "e-0-0000", true)
			r.Joined("d", Reply{Pos: "e-0-0000", Recovered: true, Reach: time.UnixMilli(2), Began: r.Len()})
			r.Received("d", "e-1-aaaa", "a")
			r.Received("d", "e-2-bbbb", "b")
			r.Stored("a", time.UnixMilli(1))
			r.Stored("b", time.UnixMilli(2))
		}},
		"received live from before its reach": {"", func(r *Recorder) {
			r.Join("c", "", true)
			began := r.Len()
			r.Append("s", "a", "")
			r.Appended("a", "e-1-aaaa")
			r.Stored("a", time.UnixMilli(1))
			r.Joined("c", Reply{Pos: "e-0-0000", Why: "new", Reach: time.UnixMilli(2), Began: began})
			r.Received("c", "e-1-aaaa", "a")
		}},
		"not recovered because of its reach": {"", func(r *Recorder) {
			two(r)
			r.Cut("c")
			r.Stored("a", time.UnixMilli(1))
			r.Join("c", "e-0-0000", true)
			r.Joined("c", Reply{Pos: "e-1-aaaa", Why: "reach", Reach: time.UnixMilli(2)})
			r.Received("c", "e-2-bbbb", "b")
		}},
		"not recovered although its reach is far enough": {Cause, func(r *Recorder) {
			two(r)
			r.Stored("a", time.UnixMilli(2))
			r.Stored("b", time.UnixMilli(3))
			r.Join("c", "e-0-0000", true)
			r.Joined("c", Reply{Pos: "e-1-aaaa", Why: "reach", Reach: time.UnixMilli(2)})
			r.Received("c", "e-2-bbbb", "b")
		}},
		"received twice without positions": {Growing, func(r *Recorder) {
			r.Join("c", "", false)
			r.Joined("c", Reply{})
			r.Append("s", "a", "")
			r.Appended("a", "e-1-aaaa")
			r.Received("c", "", "a")
			r.Received("c", "", "a")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := new(Recorder)
			test.run(r)
			found := r.Check(Limits{Count: 10, MaxReplay: 5})
			if test.rule == "" && len(found) > 0 {
				t.Errorf("found %v in a correct recording", found)
			}
			for _, v := range found {
				if v.Rule == test.rule {
					return
				}
			}
			if test.rule != "" {
				t.Errorf("found %v, want a violation of %q", found, test.rule)
			}
		})
	}
}
