package presence_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/testenv/race"
	"bennu.example/presence"
)

// A failure prints the seed with which it can be repeated.
var (
	seedFlag = flag.Uint64("seed", 0, "replay one run of the random test")
	runsFlag = flag.Int("runs", race.Seeds(25), "number of runs of the random test, each with another seed")
)

// TestRandom makes random changes on several nodes. Messages are lost, duplicated and reordered;
// nodes are disconnected and restarted. In the end all nodes list what is tracked, and the diffs of
// each node give its list (O316, property 13).
func TestRandom(t *testing.T) {
	t.Parallel()
	if *seedFlag != 0 {
		random(t, *seedFlag)
		return
	}
	first := uint64(time.Now().UnixNano())
	for i := range *runsFlag {
		if random(t, first+uint64(i)); t.Failed() {
			return
		}
	}
}

// random runs the test with one seed.
func random(t *testing.T, seed uint64) {
	t.Helper()
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { cluster(t, rand.New(rand.NewPCG(seed, 1))) })
		if t.Failed() {
			t.Errorf("replay with: go test ./presence -run '^TestRandom$' -seed %d", seed)
		}
	})
}

// living is a running node and the owner of each key that is tracked on it.
type living struct {
	*node
	has map[string]*owner
}

func cluster(t *testing.T, r *rand.Rand) {
	var net network
	with := func(c *presence.Config) {
		c.Period = time.Second
		c.Down = 10 * time.Second
		c.Permdown = 40 * time.Second
	}
	if r.IntN(3) == 0 {
		window := time.Duration(r.IntN(3000)) * time.Millisecond
		plain := with
		with = func(c *presence.Config) { plain(c); c.Window = window }
	}
	lives := 0
	birth := func(name string) *living {
		lives++
		return &living{net.join(t, fmt.Sprint(name, ".", lives), with, named(name)), map[string]*owner{}}
	}
	var nodes []*living
	for i := range 2 + r.IntN(3) {
		nodes = append(nodes, birth(fmt.Sprint("n", i)))
	}
	fate := noise(rand.New(rand.NewPCG(r.Uint64(), 2))) // separate, because it is used by other goroutines
	net.setFate(fate)
	keys := 0
	for range 50 + r.IntN(200) {
		i := r.IntN(len(nodes))
		n := nodes[i]
		var key string
		if mine := slices.Sorted(maps.Keys(n.has)); len(mine) > 0 {
			key = mine[r.IntN(len(mine))]
		}
		switch p := r.IntN(20); {
		case p < 8 || key == "":
			keys++
			key = fmt.Sprint(keys)
			n.has[key] = new(owner)
			n.track(n.has[key], key, device{"n": keys})
		case p < 10:
			n.UpdateFor(n.has[key], topic, key, device{"n": -keys})
		case p < 12:
			n.UntrackFor(n.has[key], topic, key)
			delete(n.has, key)
		case p < 13:
			n.has[key].end()
			delete(n.has, key)
		case p < 14:
			n.crash()
			nodes[i] = birth(n.wire.name[:2])
		case p < 16:
			cut := n.wire.name
			net.setFate(func(from, to string) []time.Duration {
				if from == cut || to == cut {
					return nil
				}
				return fate(from, to)
			})
		case p < 17:
			n.wire.setCut(true)
			time.AfterFunc(time.Duration(r.IntN(20))*time.Second, func() { n.wire.setCut(false) })
		default:
			net.setFate(fate)
		}
		time.Sleep([]time.Duration{0, 10 * time.Millisecond, time.Second, 20 * time.Second}[r.IntN(40)*r.IntN(40)*4/1600])
	}
	net.heal()
	time.Sleep(25 * time.Second) // all nodes are connected, and those that crashed are down
	var all []*node
	var want []string
	for _, n := range nodes {
		all = append(all, n.node)
		want = append(want, slices.Collect(maps.Keys(n.has))...)
	}
	eventually(t, 12*time.Second, all, want...)
	time.Sleep(5 * time.Second) // the last windows
	list := byKey(nodes[0].List(topic))
	for _, n := range nodes {
		if !maps.Equal(byKey(n.List(topic)), list) {
			t.Errorf("%s and %s list different metas", n.wire.name, nodes[0].wire.name)
		}
		n.check()
	}
}
