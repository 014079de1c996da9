package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/will"
)

// setWill sets a will that runs at once when the connection has ended.
func (c *conn) setWill(topic, event, payload string) (status string, response map[string]any) {
	c.t.Helper()
	status, response, _ = c.push("$socket", "will",
		fmt.Sprintf(`{"topic":%q,"event":%q,"payload":%s,"after_ms":0}`, topic, event, payload))
	return status, response
}

// TestWills checks what a will writes when its connection has ended. Each one ends with a put of
// the key "end", which says that it has run.
func TestWills(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, topic string
		before      []string // pushes of the client
		other       []string // pushes of another client after them
		ops         string
		want        string
	}{
		{
			name: "own item", topic: "map:1", before: []string{`put {"key":"ann","value":{"x":1}}`},
			ops: `{"op":"del","key":"ann"}`, want: `{"end":1}`,
		},
		{
			name: "item that another client wrote later", topic: "map:1",
			before: []string{`put {"key":"ann","value":1}`}, other: []string{`put {"key":"ann","value":2}`},
			ops: `{"op":"del","key":"ann"}`, want: `{"ann":2,"end":1}`,
		},
		{
			name: "item that does not exist", topic: "map:1",
			ops: `{"op":"put","key":"ann","value":1}`, want: `{"end":1}`,
		},
		{
			name: "item of anybody", topic: "map:1", other: []string{`put {"key":"online","value":7}`},
			ops: `{"op":"put","key":"online","value":{"$inc":-1},"own":false}`, want: `{"end":1,"online":6}`,
		},
		{
			name: "value that depends on the current one", topic: "map:1",
			before: []string{`put {"key":"ann","value":{"n":1,"is":"here"}}`},
			ops:    `{"op":"merge","key":"ann","value":{"is":"gone","n":{"$inc":4}}}`,
			want:   `{"ann":{"is":"gone","n":5},"end":1}`,
		},
		{
			name: "merge with an item of another", topic: "map:1", other: []string{`put {"key":"ann","value":{"n":1}}`},
			ops: `{"op":"merge","key":"ann","value":{"n":2}}`, want: `{"ann":{"n":1},"end":1}`,
		},
		{
			name: "leaf of a tree", topic: "tree:1", before: []string{`put {"key":"players/ann/online","value":true}`},
			ops: `{"op":"put","key":"players/ann/online","value":false}`, want: `{"end":1,"players/ann/online":false}`,
		},
		{
			name: "path of a tree", topic: "tree:1", before: []string{`put {"key":"players/ann","value":{"x":1,"y":2}}`},
			ops: `{"op":"del","key":"players/ann"}`, want: `{"end":1}`,
		},
		{
			name: "path with a leaf of another", topic: "tree:1",
			before: []string{`put {"key":"players/ann","value":{"x":1,"y":2}}`},
			other:  []string{`put {"key":"players/ann/y","value":3}`},
			ops:    `{"op":"del","key":"players/ann"}`, want: `{"end":1,"players/ann/x":1,"players/ann/y":3}`,
		},
		{
			name: "path below a leaf of another", topic: "tree:1",
			before: []string{`put {"key":"players/ann/x","value":1}`}, other: []string{`put {"key":"players","value":0}`},
			ops: `{"op":"put","key":"players/ann/x","value":2}`, want: `{"end":1,"players":0}`,
		},
		{
			name: "several leaves of anybody", topic: "tree:1", other: []string{`put {"key":"a/b","value":1}`},
			ops: `{"op":"put","key":"a","value":{"c":2,"d":3},"own":false}`, want: `{"a/c":2,"a/d":3,"end":1}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := state.NewMemory(state.MemoryConfig{})
			r := serve(t, state.New(store), state.Config{Allow: allowAll})
			c, other := r.dial(), r.dial()
			other.join(test.topic, "{}")
			c.join(test.topic, "{}")
			c.ok("$socket", "phx_join", "{}")
			for i, pushes := range [][]string{test.before, test.other} {
				for _, p := range pushes {
					event, payload, _ := strings.Cut(p, " ")
					[]*conn{c, other}[i].ok(test.topic, event, payload)
				}
			}
			ops := `{"ops":[` + test.ops + `,{"op":"put","key":"end","value":1,"own":false}]}`
			if status, response := c.setWill(test.topic, "batch", ops); status != "ok" {
				t.Fatalf("%s %v", status, response)
			}
			c.ws.Close()
			for !strings.Contains(other.next().String(), `"end"`) {
			}
			page, err := store.Read(t.Context(), test.topic, state.Range{}, "", 100)
			got := make(map[string]json.RawMessage)
			for _, it := range page.Items {
				got[strings.ReplaceAll(it.Key, "\x01", "/")] = it.Value
			}
			if text(got) != test.want || err != nil {
				t.Errorf("%s, %v, want %s", text(got), err, test.want)
			}
		})
	}
}

// TestWillOfList has wills on the items of lists, whose keys the server makes.
func TestWillOfList(t *testing.T) {
	t.Parallel()
	store := state.NewMemory(state.MemoryConfig{})
	r := serve(t, state.New(store), state.Config{Allow: allowAll})
	c, other := r.dial(), r.dial()
	other.join("list:1", "{}")
	c.join("list:1", "{}")
	c.ok("$socket", "phx_join", "{}")
	insert := func(c *conn, value string) any { return c.ok("list:1", "insert", `{"value":`+value+`}`)["key"] }
	first, second, gone, theirs := insert(c, `"a"`), insert(c, `"b"`), insert(c, `"c"`), insert(other, `"d"`)
	other.ok("list:1", "del", fmt.Sprintf(`{"key":%q}`, gone))
	ops := fmt.Sprintf(`{"ops":[{"op":"move","key":%q},{"op":"put","key":%q,"value":"B"},{"op":"put","key":%q,"value":"C"},
		{"op":"move","key":%q},{"op":"insert","value":"end"}]}`, first, second, theirs, theirs)
	if status, response := c.setWill("list:1", "batch", ops); status != "error" || response["what"] != "key" {
		t.Errorf("a put and a move of one item: %s %v", status, response)
	}
	ops = fmt.Sprintf(`{"ops":[{"op":"move","key":%q},{"op":"put","key":%q,"value":"B"},{"op":"put","key":%q,"value":"D"},
		{"op":"insert","value":"end"}]}`, first, second, theirs)
	if status, response := c.setWill("list:1", "batch", ops); status != "ok" {
		t.Fatalf("%s %v", status, response)
	}
	c.ok("list:1", "del", fmt.Sprintf(`{"key":%q}`, second)) // what does not exist is skipped
	c.ws.Close()
	for !strings.Contains(other.next().String(), `"end"`) {
	}
	page, err := store.Read(t.Context(), "list:1", state.Range{}, "", 100)
	var got []string
	for _, it := range page.Items {
		got = append(got, string(it.Value))
	}
	if want := `["\"d\"","\"a\"","\"end\""]`; text(got) != want || err != nil {
		t.Errorf("%s, %v, want %s", text(got), err, want)
	}
}

// TestWillsRefused checks the reason of each will that cannot be set.
func TestWillsRefused(t *testing.T) {
	t.Parallel()
	allow := func(_ context.Context, _ *channel.Channel, a state.Access) error {
		if a.Op.Key == "theirs" || string(a.Op.Value) == "9" {
			return push.Reject("not yours")
		}
		return nil
	}
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{Allow: allow})
	c := r.dial()
	c.ok("$socket", "phx_join", "{}")
	for _, topic := range []string{"doc:1", "map:1", "list:1", "tree:1"} {
		c.join(topic, "{}")
	}
	c.ok("map:1", "put", `{"key":"n","value":8}`)
	for _, test := range []struct{ topic, event, payload, want string }{
		{"map:1", "gone", `{}`, `{"reason":"forbidden"}`},
		{"map:1", "put", `{"key":"a","value":1}`, `{"reason":"forbidden"}`},
		{"map:1", "batch", `{}`, `{"reason":"invalid","what":"ops"}`},
		{"map:1", "batch", `{"ops":[]}`, `{"reason":"invalid","what":"ops"}`},
		{"map:1", "batch", `{"ops":[{"op":"put","key":"a","value":1}],"own":true}`, `{"reason":"invalid","what":"own"}`},
		{"map:1", "batch", `{"ops":[{"op":"put","key":"a","value":1,"own":"yes"}]}`, `{"reason":"invalid","what":"own"}`},
		{"map:1", "batch", `{"ops":[{"op":"insert","value":1}]}`, `{"reason":"invalid","what":"insert"}`},
		{"map:1", "batch", `{"ops":[{"op":"put","key":"theirs","value":1}]}`, `{"reason":"not yours"}`},
		{"map:1", "batch", `{"ops":[{"op":"put","key":"n","value":{"$inc":1}}]}`, `{"reason":"not yours"}`},
		{"tree:1", "batch", `{"ops":[{"op":"put","key":"a","value":{"b":1,"c":2}}]}`, `{"reason":"invalid","what":"own"}`},
		{"list:1", "batch", `{"ops":[{"op":"put","key":"a","value":1,"own":false}]}`, `{"reason":"not found"}`},
		{"doc:1", "batch", `{"ops":[{"op":"put","value":1},{"op":"del"}]}`, `{"max":1,"reason":"too large"}`},
	} {
		status, response := c.setWill(test.topic, test.event, test.payload)
		if status != "error" || text(response) != test.want {
			t.Errorf("%s %s %s: %s %s, want %s", test.topic, test.event, test.payload, status, text(response), test.want)
		}
	}
	status, _, _ := c.push("map:1", "batch", `{"ops":[{"op":"put","key":"a","value":1,"own":true}]}`)
	if status != "error" {
		t.Error("a push has the member own")
	}
}

// TestWillRunsTwice runs a will again, as a node does after the end of another one.
func TestWillRunsTwice(t *testing.T) {
	t.Parallel()
	store := &failing{Memory: state.NewMemory(state.MemoryConfig{})}
	o := state.New(store)
	ops := []byte(`{"ops":[{"op":"put","key":"n","value":{"$inc":1},"own":false},{"op":"add","value":7}]}`)
	x := will.Will{ID: "will-1", Topic: "map:1", Event: "batch", Connection: will.Connection{ID: "connection-1"}}
	if err := x.Payload.UnmarshalJSON(ops); err != nil {
		t.Fatal(err)
	}
	run := o.RunWillOfMap(state.Config{Allow: allowAll})
	store.err = history.ErrUnavailable
	if err := run(t.Context(), x); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("while the store is away: %v", err)
	}
	store.err = nil
	for range 2 {
		if err := run(t.Context(), x); err != nil {
			t.Error(err)
		}
	}
	page, err := store.Read(t.Context(), "map:1", state.Range{}, "", 100)
	if len(page.Items) != 2 || err != nil {
		t.Fatalf("%d items, %v", len(page.Items), err)
	}
	for _, it := range page.Items {
		if it.Key == "n" && string(it.Value) != "1" {
			t.Errorf("n is %s", it.Value)
		}
	}
	x.ID = "will-2"
	x.Payload = serializer.Value(map[string]any{"ops": []any{map[string]any{"op": "del", "key": "n", "if": 99}}})
	var refused *push.Error
	if err := run(t.Context(), x); !errors.As(err, &refused) {
		t.Errorf("a conflict: %v", err)
	}
}

// failing is a store whose writes fail while err is not nil.
type failing struct {
	*state.Memory
	err error
}

func (f *failing) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	if f.err != nil {
		return state.Applied{}, f.err
	}
	return f.Memory.Apply(ctx, object, ops, tx)
}

// A client of the Go package sets a will as on any channel.
func TestWillOfGoClient(t *testing.T) {
	t.Parallel()
	r := memory(t)
	other := r.dial()
	other.join("map:players", "{}")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := socket.Dial(ctx, r.server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	room := c.Channel("map:players", map[string]any{"$state": map[string]any{}})
	room.Will("batch", map[string]any{"ops": []any{map[string]any{"op": "del", "key": "ann"}}}, 0, false)
	if _, err := room.Join().Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := room.Push("put", map[string]any{"key": "ann", "value": 1}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for m := other.next(); m.Event != "del"; m = other.next() {
	}
}
