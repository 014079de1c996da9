package presence_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

// TestMetasKeepIntegers decodes metas and entries into any. Integers beyond 2^53 keep their value.
func TestMetasKeepIntegers(t *testing.T) {
	t.Parallel()
	const raw = `{"u1":{"metas":[{"phx_ref":"a","id":9007199254740993,"n":3}],"user":{"id":18446744073709551615}}}`
	var s presence.State
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		t.Fatal(err)
	}
	e, _ := s.Get("u1")
	metas, err := presence.Metas[map[string]any](e)
	wantMetas := []map[string]any{{"phx_ref": "a", "id": json.Number("9007199254740993"), "n": 3.}}
	if err != nil || !reflect.DeepEqual(metas, wantMetas) {
		t.Errorf("%v: %#v", err, metas)
	}
	var all map[string]any
	if err := e.Decode(&all); err != nil {
		t.Fatal(err)
	}
	const want = `{"metas":[{"id":9007199254740993,"n":3,"phx_ref":"a"}],"user":{"id":18446744073709551615}}`
	if got, err := json.Marshal(all); err != nil || string(got) != want {
		t.Errorf("%s %v", got, err)
	}
}

// TestChangeKeepsIntegers changes a meta through a map. The other fields keep their value.
func TestChangeKeepsIntegers(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), presence.Config{})
	defer p.Close(t.Context())
	o := new(owner)
	defer o.end()
	if _, err := p.TrackFor(o, topic, "u1", json.RawMessage(`{"id":-9007199254740993,"n":1}`)); err != nil {
		t.Fatal(err)
	}
	_, err := presence.ChangeFor(p, o, topic, "u1", func(meta *map[string]any) { (*meta)["n"] = 2 })
	if err != nil {
		t.Fatal(err)
	}
	e, _ := p.List(topic).Get("u1")
	var got struct {
		ID json.RawMessage
		N  int
	}
	if err := e.Metas[0].Decode(&got); err != nil || string(got.ID) != "-9007199254740993" || got.N != 2 {
		t.Errorf("%v: id %s, n %d", err, got.ID, got.N)
	}
}
