package willcheck

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// limits are those of the tests, in which a unit is a second.
var limits = Limits{
	Lease: 10 * time.Second, Poll: 2 * time.Second, Hold: 3 * time.Second, Slack: time.Second,
	Recorded: func(topic string) bool { return strings.HasPrefix(topic, "rec:") }, Observers: []string{"o1", "o2"},
}

// at returns an event at a second.
func at(second float64, e Event) Event {
	e.At = int64(second * 1e9)
	return e
}

// life returns the events of a connection that joins a topic and sets a will of 2 s on a node that
// renews its lease every second.
func life(second float64, connection string, order uint64, topic, id string) []Event {
	e := Event{
		Node: "n1", Connection: connection, Subject: "ann", Client: "page", Topic: topic, Order: order,
	}
	arriving, joined, setting, set, acked := e, e, e, Event{Will: id}, Event{Will: id}
	arriving.Kind, joined.Kind, setting.Kind, set.Kind, acked.Kind = Arriving, Joined, Setting, Set, Acked
	joined.Order, joined.Node = 0, ""
	setting.Will, setting.Mark, setting.After = id, "mark of "+id, 2*time.Second
	events := []Event{
		at(second, arriving), at(second+.1, joined), at(second+.2, setting), at(second+.3, set), at(second+.4, acked),
	}
	for i := range 60 {
		events = append(events, at(float64(i), Event{Kind: Renewed, Node: "n1"}))
	}
	return events
}

// first is the life of the first connection, and back that of one that follows at a second.
func first() []Event              { return life(1, "k1", 1, "room", "w1") }
func back(second float64) []Event { return life(second, "k2", 2, "room", "w2") }

// newest is the life of a connection with the order of the second one.
func newest() []Event { return life(1, "k2", 2, "room", "w1") }

// on moves events to another node.
func on(node string, events []Event) []Event {
	for i := range events {
		if events[i].Node != "" {
			events[i].Node = node
		}
	}
	return events
}

func ended(second float64, connection string) []Event {
	return []Event{
		at(second, Event{Kind: Ending, Connection: connection}), at(second+.1, Event{Kind: Ended, Connection: connection}),
	}
}

func ran(second float64, id string, observers ...string) []Event {
	events := []Event{at(second, Event{Kind: Ran, Node: "n2", Will: id})}
	for _, o := range observers {
		events = append(events, at(second+.1, Event{Kind: Received, By: o, Mark: "mark of " + id}))
	}
	return events
}

func one(second float64, kind Kind, e Event) []Event {
	e.Kind = kind
	return []Event{at(second, e)}
}

var finished = one(1000, Finished, Event{})

// TestCheck checks histories with and without violations.
func TestCheck(t *testing.T) {
	t.Parallel()
	ann := Event{Subject: "ann", Client: "page"}
	for name, test := range map[string]struct {
		events [][]Event
		want   []Rule
	}{
		"nothing":              {nil, nil},
		"a will that lives":    {[][]Event{first(), finished}, nil},
		"a will that runs":     {[][]Event{first(), ended(5, "k1"), ran(7, "w1"), finished}, nil},
		"it does not run":      {[][]Event{first(), ended(5, "k1"), finished}, []Rule{Runs}},
		"it runs late":         {[][]Event{first(), ended(5, "k1"), ran(20.2, "w1"), finished}, []Rule{Runs}},
		"it runs just in time": {[][]Event{first(), ended(5, "k1"), ran(20, "w1"), finished}, nil},
		"the run is over before": {
			[][]Event{first(), ended(5, "k1"), one(19, Finished, Event{})}, nil,
		},
		"the client is gone": {[][]Event{first(), one(5, Gone, ann), finished}, []Rule{Runs}},
		"it is not set, perhaps": {
			[][]Event{first()[:3], ended(5, "k1"), finished}, nil,
		},
		"it is not in the store": {
			[][]Event{slices.Delete(first(), 3, 4), finished}, []Rule{Stored},
		},
		"nobody has set it": {[][]Event{ran(7, "w1"), finished}, []Rule{Known}},
		"nobody has set what is received": {
			[][]Event{one(7, Received, Event{By: "o1", Mark: "x"}), finished}, []Rule{Known},
		},

		"its node is killed": {
			[][]Event{first(), one(5, Killed, Event{Node: "n1"}), ran(17, "w1"), finished}, nil,
		},
		"its node is killed, it does not run": {
			[][]Event{first(), one(5, Killed, Event{Node: "n1"}), finished}, []Rule{Runs},
		},
		"another node is killed meanwhile": {
			[][]Event{first(), ended(5, "k1"), one(19, Killed, Event{Node: "n2"}), ran(36, "w1"), finished},
			nil,
		},
		"another node is killed, and it runs too late": {
			[][]Event{first(), ended(5, "k1"), one(19, Killed, Event{Node: "n2"}), ran(37.2, "w1"), finished},
			[]Rule{Runs},
		},
		"another node is killed too late": {
			[][]Event{first(), ended(5, "k1"), one(21, Killed, Event{Node: "n2"}), ran(30, "w1"), finished},
			[]Rule{Runs},
		},
		"the store fails": {
			[][]Event{
				first(), ended(5, "k1"), one(6, Broken, Event{}), one(18, Mended, Event{}), ran(35, "w1"),
				finished,
			}, nil,
		},

		"the client comes back": {
			[][]Event{first(), ended(5, "k1"), back(6), finished}, nil,
		},
		"it runs before the client comes back": {
			[][]Event{first(), ended(5, "k1"), back(8), ran(8.05, "w1"), finished},
			nil,
		},
		"it runs after the client came back": {
			[][]Event{first(), ended(5, "k1"), back(8), ran(8.15, "w1"), finished},
			[]Rule{Fenced},
		},
		"it runs again after the client came back": {
			[][]Event{
				first(), ended(5, "k1"), ran(7, "w1"), back(8), ran(9, "w1"), finished,
			}, []Rule{Fenced},
		},
		"it runs after a connection without order": {
			[][]Event{first(), ended(5, "k1"), life(8, "k2", 0, "room", "w2"), ran(9, "w1"), finished},
			[]Rule{Fenced},
		},
		"it runs after an older connection joined": {
			[][]Event{newest(), ended(5, "k2"), life(6, "k1", 1, "room", "w2"), ran(9, "w1"), finished}, nil,
		},
		"an older connection is no excuse": {
			[][]Event{newest(), ended(5, "k2"), life(6, "k1", 1, "room", "w2"), finished}, []Rule{Runs},
		},
		"it runs after the client joined another topic": {
			[][]Event{first(), ended(5, "k1"), life(6, "k2", 2, "other", "w2"), ran(9, "w1"), finished}, nil,
		},
		"it joins and does not arrive": {
			[][]Event{first()[1:], finished}, []Rule{Arrived},
		},

		"it runs while its connection lives": {
			[][]Event{first(), ran(7, "w1"), finished}, []Rule{Early},
		},
		"it runs before its time": {
			[][]Event{first(), ended(5, "k1"), ran(6.9, "w1"), finished}, []Rule{Early},
		},
		"it runs after its node's lease": {
			[][]Event{
				first()[:7], one(2, Renewed, Event{Node: "n1"}), ran(12, "w1"), ended(20, "k1"), finished,
			}, nil,
		},
		"it runs just before the end of its node's lease": {
			[][]Event{
				first()[:7], one(2, Renewed, Event{Node: "n1"}), ran(11.9, "w1"), ended(20, "k1"), finished,
			}, []Rule{Early},
		},
		"one of the client's connections ends": {
			[][]Event{first(), one(5, Ending, ann), ran(7, "w1"), finished}, nil,
		},

		"it is deleted": {
			[][]Event{
				first(), one(3, Dropping, Event{Will: "w1"}), one(4, Dropped, Event{Will: "w1"}),
				ended(5, "k1"), finished,
			}, nil,
		},
		"it is deleted and runs": {
			[][]Event{
				first(), one(3, Dropping, Event{Will: "w1"}), one(4, Dropped, Event{Will: "w1"}),
				ended(5, "k1"), ran(7, "w1"), finished,
			}, []Rule{Deleted},
		},
		"another one is deleted": {
			[][]Event{
				first(), one(3, Dropping, Event{Will: "w2"}), one(4, Dropped, Event{Will: "w2"}),
				ended(5, "k1"), ran(7, "w1"), finished,
			}, nil,
		},
		"the client leaves and it runs": {
			[][]Event{
				first(), one(3, Dropping, Event{Connection: "k1", Topic: "room"}),
				one(4, Dropped, Event{Connection: "k1", Topic: "room"}), ended(5, "k1"), ran(7, "w1"), finished,
			}, []Rule{Deleted},
		},
		"the client leaves and its node is killed": {
			[][]Event{
				first(), one(3, Dropping, Event{Connection: "k1", Topic: "room"}),
				one(4, Dropped, Event{Connection: "k1", Topic: "room"}), one(4.5, Killed, Event{Node: "n1"}), ran(15, "w1"),
				finished,
			}, nil,
		},
		"the client deletes it and its node is killed": {
			[][]Event{
				first(), one(3, Dropping, Event{Will: "w1"}), one(4, Dropped, Event{Will: "w1"}),
				one(4.5, Killed, Event{Node: "n1"}), ran(15, "w1"), finished,
			}, []Rule{Deleted},
		},
		"the client leaves while the store fails": {
			[][]Event{
				first(), one(2, Broken, Event{}), one(3, Dropping, Event{Client: "page"}),
				one(4, Dropped, Event{Client: "page"}), one(5, Mended, Event{}), one(6, Killed, Event{Node: "n1"}),
				ran(17, "w1"), finished,
			}, nil,
		},
		"a later will is not deleted": {
			[][]Event{
				first(), one(3, Dropping, ann), back(6), ended(9, "k2"), finished,
			}, []Rule{Runs},
		},

		"a recorded will is received": {
			[][]Event{life(1, "k1", 1, "rec:1", "w1"), ended(5, "k1"), ran(7, "w1", "o1", "o2"), finished}, nil,
		},
		"an observer misses a recorded will": {
			[][]Event{life(1, "k1", 1, "rec:1", "w1"), ended(5, "k1"), ran(7, "w1", "o1"), finished}, []Rule{Runs},
		},
		"an observer receives a recorded will twice": {
			[][]Event{life(1, "k1", 1, "rec:1", "w1"), ended(5, "k1"), ran(7, "w1", "o1", "o2", "o2"), finished}, []Rule{Once},
		},
		"an observer receives another will twice": {
			[][]Event{first(), ended(5, "k1"), ran(7, "w1", "o1", "o1"), finished}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			violations, _ := Check(slices.Concat(test.events...), limits)
			var got []Rule
			for _, v := range violations {
				got = append(got, v.Rule)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", violations, test.want)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	_, got := Check(slices.Concat(first(), one(5, Killed, Event{Node: "n1"}), ran(17, "w1"),
		on("n3", life(20, "k2", 2, "other", "w2")), ended(25, "k2"), on("n3", life(26, "k3", 3, "other", "w3")),
		one(30, Dropping, Event{Will: "w3"}), one(31, Dropped, Event{Will: "w3"}), finished), limits)
	want := Summary{Set: 3, Ran: 1, Obliged: 1, Superseded: 1, Dropped: 1, Orphaned: 1, Kills: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestFiles checks that events are read as they were written, up to a line that is not complete.
func TestFiles(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	r := NewRecorder(&written)
	r.now = func() time.Time { return time.Unix(0, 5) }
	e := Event{
		Kind: Setting, Node: "n", Will: "w", Connection: "k", Subject: "s", Client: "c", Topic: "t", Order: 7, After: 8,
	}
	r.Add(e)
	r.Add(Event{Kind: Received, By: "o"})
	name := filepath.Join(t.TempDir(), "events")
	if err := errors.Join(r.Err(), os.WriteFile(name, written.Bytes()[:written.Len()-3], 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := Read(name)
	if e.At = 5; err != nil || len(got) != 1 || got[0] != e {
		t.Errorf("read %v, %v", got, err)
	}
	if _, err := Read(name, name+"2"); err == nil {
		t.Error("a file that does not exist was read")
	}
	if err := os.WriteFile(name, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(name); err == nil {
		t.Errorf("read %v", got)
	}
	failing := NewRecorder(writer{})
	failing.Add(e)
	if failing.Err() == nil {
		t.Error("no error")
	}
	if text := fmt.Sprint(Violation{Runs, "x"}); text != "runs: x" {
		t.Error(text)
	}
}

type writer struct{}

func (writer) Write([]byte) (int, error) { return 0, errors.New("full") }
