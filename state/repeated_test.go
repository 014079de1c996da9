package state_test

import (
	"fmt"
	"strings"
	"testing"

	"bennu.example/state"
)

// ask sends a push, given as its event and its payload, and returns the reply.
func ask(c *conn, topic, push string) (reply string, response map[string]any) {
	c.t.Helper()
	event, payload, _ := strings.Cut(push, " ")
	status, response, _ := c.push(topic, event, payload)
	return status + " " + text(response), response
}

// Pushes that delete something are repeated on another connection, as after a lost reply, and
// again after another client has put everything anew. Each must receive its first reply and change
// nothing.
func TestRepeatedDeletions(t *testing.T) {
	t.Parallel()
	r := memory(t)
	const tree = `put {"key":"a","value":{"b":1,"c":{"d":2}}}`
	for i, test := range []struct{ topic, setup, push string }{
		{"doc:", `put {"value":1}`, `del {"$id":"once"}`},
		{"doc:", `put {"value":1}`, `batch {"ops":[{"op":"del"}],"$id":"once"}`},
		{"map:", `put {"key":"a","value":1}`, `del {"key":"a","$id":"once"}`},
		{"map:", `put {"key":"a","value":1}`, `del {"key":"absent","$id":"once"}`},
		{"map:", `put {"key":"a","value":1}`, `batch {"ops":[{"op":"del","key":"a"},` +
			`{"op":"put","key":"b","value":{"$inc":1}}],"$id":"once"}`},
		{"list:", `insert {"value":1}`, `del {"key":"KEY","$id":"once"}`},
		{"list:", `insert {"value":1}`, `move {"key":"KEY","$id":"once"}`},
		{"list:", `insert {"value":1}`, `batch {"ops":[{"op":"put","key":"KEY","value":2}],"$id":"once"}`},
		{"tree:", tree, `del {"key":"a","$id":"once"}`},
		{"tree:", tree, `del {"key":"a/c","$id":"once"}`},
		{"tree:", tree, `put {"key":"a","value":null,"$id":"once"}`},
		{"tree:", tree, `merge {"key":"a","value":{"b":null,"c":null},"$id":"once"}`},
	} {
		topic := fmt.Sprint(test.topic, i)
		other, dial := r.dial(), func() *conn {
			c := r.dialWith("&$client=client-that-repeats")
			c.join(topic, `{}`)
			return c
		}
		other.join(topic, `{}`)
		_, made := ask(other, topic, test.setup)
		top := func() string {
			_, events := r.dial().join(topic, `{}`)
			return position(events)
		}
		key, _ := made["key"].(string)
		push := strings.ReplaceAll(test.push, "KEY", key)
		first, _ := ask(dial(), topic, push)
		if !strings.HasPrefix(first, "ok ") {
			t.Fatalf("%s %s: %s", topic, push, first)
		}
		for try := range 2 {
			before := top()
			if again, _ := ask(dial(), topic, push); again != first || top() != before {
				t.Errorf("%s %s: repeated %d: %s at %s, first %s at %s", topic, push, try, again, top(), first, before)
			}
			ask(other, topic, test.setup)
		}
	}
}

// The removal of an object is repeated on another connection. It succeeds again, and does not
// remove what was made in its place. That of another client, or with another $id, does.
func TestRepeatedRemovals(t *testing.T) {
	t.Parallel()
	r := memory(t)
	for _, test := range []struct{ topic, setup string }{
		{"doc:1", `put {"value":1}`}, {"map:1", `put {"key":"a","value":1}`},
		{"list:1", `insert {"value":1}`}, {"tree:1", `put {"key":"a","value":1}`},
	} {
		push := func(client, payload string) string {
			c := r.dialWith("&$client=client-that-is-" + client)
			c.join(test.topic, `{}`)
			got, _ := ask(c, test.topic, "remove "+payload)
			return got
		}
		setup := func() {
			c := r.dial()
			c.join(test.topic, `{}`)
			ask(c, test.topic, test.setup)
		}
		const removed, absent = `ok {}`, `error {"reason":"not found"}`
		setup()
		for i, step := range []struct {
			client, payload, want string
			made                  bool // the object is made again afterwards
		}{
			{"first", `{"$id":"a"}`, removed, false},
			{"first", `{"$id":"a"}`, removed, false},
			{"first", `{"$id":"b"}`, absent, false},
			{"other", `{"$id":"a"}`, absent, false},
			{"first", `{}`, absent, true},
			{"first", `{"$id":"a"}`, removed, false}, // it does nothing
			{"other", `{"$id":"a"}`, removed, true},
			{"other", `{"$id":"a"}`, removed, false}, // it does nothing
			{"first", `{"$id":"b"}`, removed, false},
			{"first", `{}`, absent, false},
		} {
			if got := push(step.client, step.payload); got != step.want {
				t.Errorf("%s, step %d: %s, want %s", test.topic, i, got, step.want)
			}
			if step.made {
				setup()
			}
		}
	}
}

// writer returns a function that puts an item, with the id of another client's write.
func writer(t *testing.T, o *state.Objects, topic string) func(id string) {
	return func(id string) {
		t.Helper()
		ops := []state.Op{{Key: "other", Value: []byte(`1`)}}
		if _, err := o.Apply(t.Context(), topic, ops, state.Tx{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// A client returns when the store may have forgotten its write. With the position of the first
// attempt the server applies the write again only if it cannot have been applied before.
func TestRepeatedLate(t *testing.T) {
	t.Parallel()
	const uncertain, pos = `error {"reason":"uncertain"}`, `,"$pos":"AT"`
	merge := func(more string) string { return `merge {"key":"n","value":{"c":{"$inc":1}},"$id":"once"` + more + `}` }
	for _, test := range []struct {
		name    string
		first   bool // the first attempt was applied, and its reply was lost
		between int  // writes of another client, with ids
		again   string
		want    string
		count   float64
	}{
		{"without a position it is applied twice", true, 1000, merge(""), `ok {"rev":1003}`, 2},
		{"forgotten", true, 1000, merge(pos), uncertain, 1},
		{"forgotten, and it had no position", true, 1000, merge(`,"$pos":null`), uncertain, 1},
		{"remembered", true, 999, merge(pos), `ok {"rev":2}`, 1},
		{"remembered, and it had no position", true, 999, merge(`,"$pos":null`), `ok {"rev":2}`, 1},
		{"soon", true, 10, merge(pos), `ok {"rev":2}`, 1},
		{"soon, not applied", false, 500, merge(pos), `ok {"rev":502}`, 1},
		{"late, not applied", false, 501, merge(pos), uncertain, 0},
		{"late, not applied, and it had no position", false, 500, merge(`,"$pos":null`), uncertain, 0},
		{"an addition", true, 1000, `add {"value":1,"$id":"once","$pos":"AT"}`, uncertain, 1},
		{"a batch", true, 1000, `batch {"ops":[{"op":"put","key":"n","value":{"c":7}}],"$id":"once"` + pos + `}`,
			uncertain, 1},
		{"of an object that has gone", true, -1, merge(pos), uncertain, 0},
		{"of another object", true, 0, merge(`,"$pos":"other00-1-0001"`), `ok {"rev":2}`, 1},
		{"of another object, not applied", false, 0, merge(`,"$pos":"other00-1-0001"`), uncertain, 0},
		{"malformed", false, 0, merge(`,"$pos":"x"`), `error {"reason":"invalid","what":"$pos"}`, 0},
		{"a number", false, 0, merge(`,"$pos":1`), `error {"reason":"invalid","what":"$pos"}`, 0},
		{"without an id", false, 0, `del {"key":"n","$pos":"AT"}`, `error {"reason":"invalid","what":"$pos"}`, 0},
		{"of a read", false, 0, `read {"$pos":"AT"}`, `error {"reason":"invalid","what":"$pos"}`, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := memory(t)
			const topic = "map:1"
			write := writer(t, r.objects, topic)
			write("first")
			dial := func() (c *conn, at string) {
				c = r.dialWith("&$client=client-that-repeats")
				_, events := c.join(topic, `{}`)
				return c, position(events)
			}
			c, at := dial()
			if test.first {
				if got, _ := ask(c, topic, merge("")); got != `ok {"rev":2}` {
					t.Fatal(got)
				}
			}
			for i := range test.between {
				write(fmt.Sprint("between", i))
			}
			if test.between < 0 {
				if err := r.objects.Remove(t.Context(), topic); err != nil {
					t.Fatal(err)
				}
			}
			c, _ = dial()
			if got, _ := ask(c, topic, strings.ReplaceAll(test.again, "AT", at)); got != test.want {
				t.Errorf("the repeated push: %s, want %s", got, test.want)
			}
			got := 0.0
			now, _ := c.join(topic, `{"keys":{"from":"n","to":"n0"}}`)
			for _, it := range now["items"].([]any) {
				value, _ := it.(map[string]any)["value"].(map[string]any)
				got += value["c"].(float64)
			}
			if got != test.count {
				t.Errorf("counted %v times, want %v", got, test.count)
			}
		})
	}
}

// Pushes that change nothing have no revisions, so the server cannot count them. They do not make
// the store forget a push that changed something.
func TestRepeatedAfterUnchanged(t *testing.T) {
	t.Parallel()
	r := memory(t)
	const topic, count = "map:1", `merge {"key":"n","value":{"c":{"$inc":1}},"$id":"once"`
	dial := func() (c *conn, at string) {
		c = r.dialWith("&$client=client-that-repeats")
		_, events := c.join(topic, `{}`)
		return c, position(events)
	}
	c, at := dial()
	first, _ := ask(c, topic, count+`}`)
	for i := range 2000 {
		ops := []state.Op{{Key: "absent", Delete: true}}
		if _, err := r.objects.Apply(t.Context(), topic, ops, state.Tx{ID: fmt.Sprint("unchanged", i)}); err != nil {
			t.Fatal(err)
		}
	}
	writer(t, r.objects, topic)("changed")
	c, _ = dial()
	if again, _ := ask(c, topic, count+`,"$pos":"`+at+`"}`); again != first || first != `ok {"rev":1}` {
		t.Errorf("repeated: %s, first %s", again, first)
	}
}

// A repeated removal does not remove an object that was made meanwhile, also if the store has
// forgotten the first one.
func TestRepeatedRemovalLate(t *testing.T) {
	t.Parallel()
	r := memory(t)
	const topic = "map:1"
	push := func(payload string) (reply, at string) {
		c := r.dialWith("&$client=client-that-repeats")
		_, events := c.join(topic, `{}`)
		reply, _ = ask(c, topic, "remove "+strings.ReplaceAll(payload, "AT", position(events)))
		return reply, position(events)
	}
	write := writer(t, r.objects, topic)
	write("first")
	first, at := push(`{"$id":"once","$pos":"AT"}`)
	again, _ := push(`{"$id":"once","$pos":"` + at + `"}`)
	if first != "ok {}" || again != first {
		t.Errorf("the removal: %s, repeated: %s", first, again)
	}
	write("second")
	if got, _ := push(`{"$id":"twice","$pos":"` + at + `"}`); got != `error {"reason":"uncertain"}` {
		t.Errorf("a removal of the object before: %s", got)
	}
	if got, _ := push(`{"$id":"twice","$pos":"AT"}`); got != "ok {}" {
		t.Errorf("a removal of the object: %s", got)
	}
}
