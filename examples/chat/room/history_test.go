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

func TestHistoryKeepsLatestMessages(t *testing.T) {
	t.Parallel()
	h := newHistory(3, 10)
	if got := h.since("a", ""); got == nil || len(got) > 0 {
		t.Errorf("an empty room has %#v; want an empty, non-nil slice", got)
	}
	for i := range 5 {
		h.add("a", message{ID: fmt.Sprint(i), Body: fmt.Sprint(i)})
	}
	for id, want := range map[string][]string{
		"": {"2", "3", "4"}, "2": {"3", "4"}, "4": nil, "0": {"2", "3", "4"}, // message 0 was dropped
	} {
		if got := bodies(h.since("a", id)); !slices.Equal(got, want) {
			t.Errorf("since(%q) is %v, want %v", id, got, want)
		}
	}
	// A returned slice does not change.
	before := h.since("a", "")
	h.add("a", message{ID: "5", Body: "5"})
	if got := bodies(before); !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("the returned slice became %v", got)
	}
}

func TestHistoryDropsLeastRecentRoom(t *testing.T) {
	t.Parallel()
	h := newHistory(3, 2)
	for i, room := range []string{"a", "b", "a", "c"} { // the last message of b is the oldest
		h.add(room, message{ID: fmt.Sprint(i), Body: room})
	}
	for room, want := range map[string]int{"a": 2, "b": 0, "c": 1} {
		if got := len(h.since(room, "")); got != want {
			t.Errorf("%s has %d messages, want %d", room, got, want)
		}
	}
	if len(h.rooms) != 2 || h.recent.Len() != 2 {
		t.Errorf("%d and %d rooms, want 2", len(h.rooms), h.recent.Len())
	}
}

func TestHistoryConcurrentUse(t *testing.T) {
	t.Parallel()
	h := newHistory(5, 3)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				room := fmt.Sprint((i + j) % 5)
				h.add(room, message{ID: fmt.Sprint(i, j)})
				if n := len(h.since(room, "")); n > 5 {
					t.Errorf("%d messages, want at most 5", n)
				}
			}
		})
	}
	all.Wait()
	if len(h.rooms) > 3 {
		t.Errorf("%d rooms, want at most 3", len(h.rooms))
	}
}
