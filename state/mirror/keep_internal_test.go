package mirror

import (
	"testing"

	"bennu.example/serializer"
)

// TestKeepOnlyWhole has a copy that is being loaded: it is not stored before it is complete.
func TestKeepOnlyWhole(t *testing.T) {
	m := &Mirror{topic: "map:1", kind: "map"}
	f := follower{m}
	payload := func(text string) (p serializer.Payload) {
		if err := p.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	stored := func(want bool, when string) {
		t.Helper()
		value, pos, err := source{m}.Snapshot()
		if err != nil || (value != nil) != want || want && pos != m.pos {
			t.Errorf("%s: %s at %s, %v", when, value, pos, err)
		}
	}
	stored(false, "before the join")
	f.Joined(payload(`{"$state":{"kind":"map","id":"e1","recovered":false,"items":[{"key":"a","rev":1,"value":1}]}}`))
	stored(false, "a part has arrived")
	f.Received("items", payload(`{"$pos":"e1-2-aaaa","items":[{"key":"b","rev":2,"value":2}]}`))
	stored(false, "another part has arrived")
	f.Received("synced", payload(`{"$pos":"e1-2-aaaa"}`))
	stored(true, "all has arrived")
	f.Errored(nil)
	stored(true, "without a connection")
	f.Joined(payload(`{"$state":{"kind":"map","id":"e1","recovered":true}}`))
	f.Received("put", payload(`{"$pos":"e1-3-aaaa","key":"b","rev":3,"value":3}`))
	stored(true, "recovered")
	f.Joined(payload(`{"$state":{"kind":"map","id":"e2","recovered":false,"items":[]}}`))
	stored(false, "begun anew")
}
