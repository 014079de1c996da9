package state_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/state"
)

// over is the query of the numbers over another one.
var over = state.Query("over", func(least int, _ string, value any) bool {
	n, ok := value.(float64)
	return ok && int(n) > least
})

const windowReply = `,"kind":"map",` + mapLimits + `,"recovered":false,"why":"window"}}`

// TestWindow has the first and the last items of a map, as they change.
func TestWindow(t *testing.T) {
	t.Parallel()
	r := memory(t)
	w := r.dial()
	w.join("map:1", `{}`)
	ok := func(event, payload string) { w.ok("map:1", event, payload) }
	ok("batch",
		`{"ops":[{"op":"put","key":"b","value":1},{"op":"put","key":"d","value":1},{"op":"put","key":"f","value":1}]}`)
	first, last := r.dial(), r.dial()
	play(t, first, "map:1",
		[2]string{`phx_join {"$state":{"keys":{"first":2},"since":"zzzzzzzzzzzz-3-0z0z"}}`,
			`ok {"$state":{"id":"E","items":[{"key":"b","rev":1,"value":1},{"key":"d","rev":2,"value":1}]` + windowReply},
		[2]string{"<", `synced {}`})
	play(t, last, "map:1",
		[2]string{`phx_join {"$state":{"keys":{"last":2,"from":"c"}}}`,
			`ok {"$state":{"id":"E","items":[{"key":"d","rev":2,"value":1},{"key":"f","rev":3,"value":1}]` + windowReply},
		[2]string{"<", `synced {}`})
	for _, step := range []struct {
		event, payload string
		first, last    []string
	}{
		{"put", `{"key":"c","value":2}`, []string{
			`put {"key":"c","rev":4,"value":2}`, `del {"key":"d","reason":"window","rev":2}`,
		}, nil},
		{"put", `{"key":"f","value":2}`, nil, []string{`put {"key":"f","rev":5,"value":2}`}},
		{"put", `{"key":"g","value":2}`, nil, []string{
			`put {"key":"g","rev":6,"value":2}`, `del {"key":"d","reason":"window","rev":2}`,
		}},
		{"del", `{"key":"b"}`, []string{
			`del {"key":"b","reason":"deleted","rev":7}`, `put {"key":"d","rev":2,"value":1}`,
		}, nil},
		{
			"batch", `{"ops":[{"op":"del","key":"f"},{"op":"del","key":"g"},{"op":"put","key":"a","value":3}]}`,
			[]string{`batch {"items":[{"key":"a","rev":10,"value":3},{"del":"window","key":"d","rev":2}]}`},
			[]string{
				`batch {"items":[{"del":"deleted","key":"f","rev":8},{"del":"deleted","key":"g","rev":9}]}`,
				`put {"key":"c","rev":4,"value":2}`, `put {"key":"d","rev":2,"value":1}`,
			},
		},
		{"del", `{"key":"d"}`, nil, []string{`del {"key":"d","reason":"deleted","rev":11}`}},
		{"put", `{"key":"z","value":4}`, nil, []string{`put {"key":"z","rev":12,"value":4}`}},
		{"del", `{"key":"c"}`, []string{
			`del {"key":"c","reason":"deleted","rev":13}`, `put {"key":"z","rev":12,"value":4}`,
		}, []string{`del {"key":"c","reason":"deleted","rev":13}`}},
	} {
		ok(step.event, step.payload)
		for _, event := range step.first {
			play(t, first, "map:1", [2]string{"<", event})
		}
		for _, event := range step.last {
			play(t, last, "map:1", [2]string{"<", event})
		}
	}
	ok("remove", `{}`)
	play(t, first, "map:1", [2]string{"<", `phx_close {"reason":"removed"}`})
	play(t, first, "map:1",
		[2]string{`phx_join {"$state":{"keys":{"first":2}}}`, `ok {"$state":{"items":[]` + windowReply},
		[2]string{"<", `synced {}`})
	ok = func(event, payload string) { first.send("map:1", event, payload) }
	ok("put", `{"key":"x","value":1}`)
	for range 2 { // the reply and the event, in either order
		if m := first.next(); m.Event != "phx_reply" && plain(m) != `map:1 put {"key":"x","rev":1,"value":1}` {
			t.Error(m)
		}
	}
}

// TestWindowHasNoGap has a write that empties a window and puts an item behind those that come into
// it.
func TestWindowHasNoGap(t *testing.T) {
	t.Parallel()
	r := memory(t)
	w, c := r.dial(), r.dial()
	w.join("map:1", `{}`)
	for _, key := range []string{"a", "b", "c", "d"} {
		w.ok("map:1", "put", fmt.Sprintf(`{"key":%q,"value":1}`, key))
	}
	c.join("map:1", `{"keys":{"first":2}}`)
	w.ok("map:1", "batch",
		`{"ops":[{"op":"del","key":"a"},{"op":"del","key":"b"},{"op":"put","key":"z","value":1}]}`)
	play(t, c, "map:1",
		[2]string{"<", `batch {"items":[{"del":"deleted","key":"a","rev":5},{"del":"deleted","key":"b","rev":6}]}`},
		[2]string{"<", `put {"key":"c","rev":3,"value":1}`},
		[2]string{"<", `put {"key":"d","rev":4,"value":1}`},
	)
}

// TestQuery has a query as a subscription and as a push.
func TestQuery(t *testing.T) {
	t.Parallel()
	cfg := state.Config{Allow: allowAll, Queries: []state.QueryDef{over}, Limits: state.Limits{Rows: 3}}
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})), cfg)
	w, c := r.dial(), r.dial()
	w.join("map:1", `{}`)
	put := func(key, value string) { w.ok("map:1", "put", fmt.Sprintf(`{"key":%q,"value":%s}`, key, value)) }
	put("a", "5")
	put("b", "7")
	put("c", `"text"`)
	play(t, c, "map:1",
		[2]string{`phx_join {"$state":{"query":{"name":"over","args":6}}}`,
			`ok {"$state":{"id":"E","items":[{"key":"b","rev":2,"value":7}]` + windowReply},
		[2]string{"<", `synced {}`})
	put("a", "6")
	for _, step := range [][3]string{
		{"a", "9", `put {"key":"a","rev":5,"value":9}`},
		{"b", "8", `put {"key":"b","rev":6,"value":8}`},
		{"b", "1", `del {"key":"b","reason":"window","rev":7}`},
	} {
		put(step[0], step[1])
		play(t, c, "map:1", [2]string{"<", step[2]})
	}
	w.ok("map:1", "batch",
		`{"ops":[{"op":"put","key":"b","value":10},{"op":"put","key":"c","value":11},{"op":"put","key":"d","value":1}]}`)
	w.ok("map:1", "del", `{"key":"a"}`)
	play(t, c, "map:1",
		[2]string{"<", `batch {"items":[{"key":"b","rev":8,"value":10},{"key":"c","rev":9,"value":11}]}`},
		[2]string{"<", `del {"key":"a","reason":"deleted","rev":11}`},
		[2]string{`query {"name":"over","args":0,"max":2}`,
			`ok {"items":[{"key":"b","rev":8,"value":10},{"key":"c","rev":9,"value":11}],"next":"d"}`},
		[2]string{`query {"name":"over","next":"d"}`, `ok {"items":[{"key":"d","rev":10,"value":1}]}`},
	)
	put("e", "20")
	put("f", "20") // one more than the limit permits
	play(t, c, "map:1",
		[2]string{"<", `put {"key":"e","rev":12,"value":20}`},
		[2]string{"<", `phx_close {"reason":"quota"}`},
		[2]string{`phx_join {"$state":{"query":{"name":"over","args":6}}}`, `error {"max":3,"reason":"quota"}`},
		[2]string{`phx_join {"$state":{"query":{"name":"over","args":6},"keys":{"prefix":"b"}}}`,
			`ok {"$state":{"id":"E","items":[{"key":"b","rev":8,"value":10}]` + windowReply},
	)
}

// TestVisible has clients that must not see every item.
func TestVisible(t *testing.T) {
	t.Parallel()
	var secret atomic.Value
	secret.Store("x")
	cfg := state.Config{
		Allow: allowAll, Queries: []state.QueryDef{over},
		Visible: func(_ context.Context, c *channel.Channel, it state.Item) bool {
			return c.Topic() != "" && !strings.Contains(it.Key+string(it.Value), secret.Load().(string))
		},
	}
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})), cfg)
	ops := []state.Op{{Key: "a", Value: []byte(`1`)}, {Key: "x1", Value: []byte(`2`)}, {Key: "y", Value: []byte(`3`)}}
	if _, err := r.objects.Apply(t.Context(), "map:1", ops, state.Tx{}); err != nil {
		t.Fatal(err)
	}
	c, d := r.dial(), r.dial()
	play(t, c, "map:1",
		[2]string{`phx_join {}`,
			`ok {"$state":{"id":"E","items":[{"key":"a","rev":1,"value":1},{"key":"y","rev":3,"value":3}]` + windowReply},
		[2]string{"<", `synced {}`},
		[2]string{`read {}`, `ok {"items":[{"key":"a","rev":1,"value":1},{"key":"y","rev":3,"value":3}]}`},
		[2]string{`query {"name":"over","args":1}`, `ok {"items":[{"key":"y","rev":3,"value":3}]}`},
		[2]string{`put {"key":"x1","value":1,"if":7}`, `error {"reason":"conflict","rev":2,"value":null}`},
		[2]string{`batch {"ops":[{"op":"merge","key":"a","value":{},"if":9}]}`,
			`error {"key":"a","reason":"conflict","rev":1,"value":1}`},
		[2]string{`put {"key":"x1","value":4}`, `ok {"rev":4}`},
	)
	play(t, d, "map:1",
		[2]string{`phx_join {"$state":{"keys":{"first":2}}}`,
			`ok {"$state":{"id":"E","items":[{"key":"a","rev":1,"value":1},{"key":"y","rev":3,"value":3}]` + windowReply},
		[2]string{"<", `synced {}`})
	w := r.objects
	write := func(key, value string) {
		t.Helper()
		if _, err := w.Apply(t.Context(), "map:1", []state.Op{{Key: key, Value: []byte(value)}}, state.Tx{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, change := range [][2]string{ // one after the other, because a later event of the key replaces one that waits
		{`"x"`, `del {"key":"a","reason":"window","rev":5}`}, {`5`, `put {"key":"a","rev":6,"value":5}`},
	} {
		write("a", change[0])
		for _, c := range []*conn{c, d} {
			play(t, c, "map:1", [2]string{"<", change[1]})
		}
	}
	secret.Store("y")
	r.objects.Refresh("map:1")
	r.objects.Refresh("map:none")
	play(t, c, "map:1",
		[2]string{"<", `items {"items":[{"key":"x1","rev":4,"value":4},{"del":"window","key":"y","rev":3}]}`})
	play(t, d, "map:1",
		[2]string{"<", `items {"items":[{"key":"x1","rev":4,"value":4},{"del":"window","key":"y","rev":3}]}`})
	docState := `ok {"$state":{"id":"E","kind":"document",` + docLimits + `,"recovered":false,`
	write = func(_, value string) {
		t.Helper()
		if _, err := w.Apply(t.Context(), "doc:1", []state.Op{{Value: []byte(value)}}, state.Tx{}); err != nil {
			t.Fatal(err)
		}
	}
	write("", `"y"`)
	play(t, c, "doc:1",
		[2]string{`phx_join {}`, docState + `"rev":0,"value":null,"why":"window"}}`}, [2]string{"<", `synced {}`})
	write("", `"z"`)
	play(t, c, "doc:1", [2]string{"<", `put {"rev":2,"value":"z"}`})
	write("", `"y"`)
	play(t, c, "doc:1", [2]string{"<", `del {"reason":"window","rev":3}`})
	write("", `"z"`)
	play(t, d, "doc:1", [2]string{`phx_join {}`, docState + `"rev":4,"value":"z","why":"window"}}`})
}

// anything is the query of all items.
var anything = state.Query("any", func(_ struct{}, _ string, _ any) bool { return true })

// viewer makes the rows of a client of what it receives.
type viewer map[string]uint64

// see applies the events. The revisions of a key must not fall while the client has it.
func (v viewer) see(t *testing.T, m message) {
	t.Helper()
	if st, ok := m.Payload["response"].(map[string]any); ok {
		m.Payload, _ = st["$state"].(map[string]any)
	}
	items, isList := m.Payload["items"].([]any)
	if !isList && m.Payload["key"] != nil {
		items = []any{m.Payload}
	}
	for _, it := range items {
		it := it.(map[string]any)
		key, rev := it["key"].(string), uint64(it["rev"].(float64))
		if rev < v[key] {
			t.Errorf("%v after revision %d", it, v[key])
		}
		if _, ok := it["value"]; ok {
			v[key] = rev
		} else {
			delete(v, key)
		}
	}
}

// itemsOf returns the items of the map.
func itemsOf(t *testing.T, s state.Store) (all []state.Item) {
	t.Helper()
	for next := ""; ; {
		p, err := s.Read(context.Background(), simTopic, state.Range{}, next, 1000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Items...)
		if next = p.Next; next == "" {
			return all
		}
	}
}

// blocking is a callback that waits until the test lets it go on.
func blocking(wait chan struct{}, began chan<- struct{}) channel.Option[state.Session] {
	return channel.On("block",
		func(*state.Session, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			began <- struct{}{}
			<-wait
			return push.NoReply, nil
		})
}

// TestWindowThatIsBehind has a channel whose callback takes so long that its window is read again.
func TestWindowThatIsBehind(t *testing.T) {
	t.Parallel()
	for _, keys := range []string{`"keys":{"first":5}`, `"keys":{"last":5}`, `"query":{"name":"over","args":10}`} {
		wait, began := make(chan struct{}), make(chan struct{}, 1)
		cfg := state.Config{
			Allow: allowAll, Queries: []state.QueryDef{over},
			Options: []channel.Option[state.Session]{blocking(wait, began)},
		}
		store := state.NewMemory(state.MemoryConfig{})
		r := serve(t, state.New(store), cfg)
		apply := func(key string, n int) {
			ops := []state.Op{{Key: key, Value: fmt.Append(nil, n)}}
			if _, err := r.objects.Apply(t.Context(), "map:1", ops, state.Tx{}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			apply(fmt.Sprintf("k%02d", i), i)
		}
		c := r.dial()
		v := viewer{}
		c.send("map:1", "phx_join", `{"$state":{`+keys+`}}`)
		for m := c.next(); m.Event != "synced"; m = c.next() {
			v.see(t, m)
		}
		c.send("map:1", "block", `{}`)
		<-began
		for i := range 200 {
			apply(fmt.Sprintf("k%02d", i*7%20), i)
		}
		ops := []state.Op{{Key: "k01", Delete: true}, {Key: "k19", Delete: true}}
		if _, err := r.objects.Apply(t.Context(), "map:1", ops, state.Tx{}); err != nil {
			t.Fatal(err)
		}
		close(wait)
		late := time.AfterFunc(20*time.Second, func() { c.ws.Close() }) // ends the loop below
		apply("k00", 1000)                                              // in the window of the first
		apply("k18", 1000)                                              // in the other windows
		want := viewer{}
		all := itemsOf(t, store)
		for i, it := range all {
			n := 0
			_ = json.Unmarshal(it.Value, &n) // a number
			switch {
			case strings.Contains(keys, "first") && i >= 5, strings.Contains(keys, "last") && i < len(all)-5,
				strings.Contains(keys, "over") && n <= 10:
			default:
				want[it.Key] = it.Rev
			}
		}
		for !maps.Equal(v, want) {
			v.see(t, c.next())
		}
		late.Stop()
	}
}
