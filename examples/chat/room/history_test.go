package room

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

func bodies(messages []message) []string {
	var all []string
	for _, m := range messages {
		all = append(all, m.Body)
	}
	return all
}

func TestHistoryKeepsTheLast(t *testing.T) {
	t.Parallel()
	h := newHistory(3, 10)
	if got := h.since("a", ""); got == nil || len(got) > 0 {
		t.Errorf("an empty room has %#v; want an empty list, not null", got)
	}
	for i := range 5 {
		h.add("a", message{ID: fmt.Sprint(i), Body: fmt.Sprint(i)})
	}
	for id, want := range map[string][]string{
		"": {"2", "3", "4"}, "2": {"3", "4"}, "4": nil, "0": {"2", "3", "4"}, // 0 is not remembered
	} {
		if got := bodies(h.since("a", id)); !slices.Equal(got, want) {
			t.Errorf("since %q there are %v, want %v", id, got, want)
		}
	}
	// What was handed out does not change.
	before := h.since("a", "")
	h.add("a", message{ID: "5", Body: "5"})
	if got := bodies(before); !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("what was handed out became %v", got)
	}
}

func TestHistoryForgetsTheSilent(t *testing.T) {
	t.Parallel()
	h := newHistory(3, 2)
	for i, room := range []string{"a", "b", "a", "c"} { // b is silent for longest
		h.add(room, message{ID: fmt.Sprint(i), Body: room})
	}
	for room, want := range map[string]int{"a": 2, "b": 0, "c": 1} {
		if got := len(h.since(room, "")); got != want {
			t.Errorf("%s has %d messages, want %d", room, got, want)
		}
	}
	if len(h.rooms) != 2 || h.recent.Len() != 2 {
		t.Errorf("%d and %d rooms are kept, want 2", len(h.rooms), h.recent.Len())
	}
}

func TestHistoryFromManyGoroutines(t *testing.T) {
	t.Parallel()
	h := newHistory(5, 3)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				room := fmt.Sprint((i + j) % 5)
				h.add(room, message{ID: fmt.Sprint(i, j)})
				if n := len(h.since(room, "")); n > 5 {
					t.Errorf("%d messages are kept", n)
				}
			}
		})
	}
	all.Wait()
	if len(h.rooms) > 3 {
		t.Errorf("%d rooms are kept", len(h.rooms))
	}
}
