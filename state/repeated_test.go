package state_test

import (
	"fmt"
	"strings"
	"testing"
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
