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
	for round := range 200 {
		topics := 5 // or more, so that the table grows and its runs of slots meet its end
		if round%20 == 0 {
			topics = 40
		}
		var set channelSet
		want := make(map[string]channelhost.Channel)
		var all []*topicOnly
		for range 10 * topics {
			if len(all) == 0 || random.IntN(2) == 0 {
				c := &topicOnly{topic: strconv.Itoa(random.IntN(topics))}
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
			for i := range topics {
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

// BenchmarkChannelOf measures how the channel of a message is found.
func BenchmarkChannelOf(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			var set channelSet
			topics := make([]string, n)
			for i := range topics {
				set.add(&topicOnly{topic: "room:" + strconv.Itoa(i)})
				topics[i] = "room:" + strconv.Itoa(i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if set.get(topics[i*7919%n]) == nil {
					b.Fatal("no channel")
				}
			}
		})
	}
}
