package socket

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"bennu.example/internal/channelhost"
)

// topicOnly is a channel of which only the topic is used.
type topicOnly struct {
	channelhost.Channel
	topic string
}

func (c *topicOnly) Topic() string { return c.topic }

// TestChannelSet compares a channelSet with a map during random changes.
func TestChannelSet(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var set channelSet
		want := make(map[string]channelhost.Channel)
		var all []*topicOnly
		for range 50 {
			if len(all) == 0 || random.IntN(2) == 0 {
				c := &topicOnly{topic: strconv.Itoa(random.IntN(5))}
				all = append(all, c)
				set.add(c)
				want[c.topic] = c
			} else if c := all[random.IntN(len(all))]; want[c.topic] == c {
				set.remove(c)
				delete(want, c.topic)
			} else {
				set.remove(c) // it was replaced or removed before
			}
			if got := maps.Collect(set.all()); !maps.Equal(got, want) || set.size() != len(want) {
				t.Fatalf("got %v (%d), want %v", got, set.size(), want)
			}
			for i := range 5 {
				if topic := strconv.Itoa(i); set.get(topic) != want[topic] {
					t.Fatalf("topic %s: got %v, want %v", topic, set.get(topic), want[topic])
				}
			}
			if list := set.list(); len(list) != len(want) || slices.Contains(list, nil) {
				t.Fatalf("listed %v, want %v", list, want)
			}
		}
	}
}
