package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// replica is a mirror and what a loop over its changes has made of them.
type replica struct {
	*mirror.Map[int]
	keys    state.Range
	mark    string // a key in the range, which is written at the end of each round
	changes reader[int]
	replay  map[string]int
	synced  bool
	resets  int
}

// follow reads changes until the mark of a round has come and the copy is complete.
func (p *replica) follow(t *testing.T, round int) {
	t.Helper()
	for p.replay[p.mark] != round || !p.synced {
		c, err, ok := p.changes.next()
		var overflow *channel.OverflowError
		switch {
		case !ok:
			t.Fatal("the sequence ended")
		case errors.As(err, &overflow):
		case err != nil:
			t.Fatal(err)
		case c.Kind == mirror.Reset:
			p.resets++
			p.synced = false
			clear(p.replay)
		case c.Kind == mirror.Synced:
			p.synced = true
		case c.Kind == mirror.Put:
			old, had := p.replay[c.Key]
			if had != (c.Old != nil) || had && old != *c.Old {
				t.Errorf("the change of %s has the old value %v, want %d (%v)", c.Key, c.Old, old, had)
			}
			p.replay[c.Key] = c.Value
		case c.Kind == mirror.Delete:
			if _, had := p.replay[c.Key]; !had {
				t.Errorf("the deleted key %s was not there", c.Key)
			}
			delete(p.replay, c.Key)
		}
	}
}

// TestRandomHistories writes, cuts connections and takes the network down at random. Whenever it
// rests, each mirror equals the store, and so does what its changes make. Since the store keeps few
// deletions, some mirrors begin anew and others continue; a continued one must not miss a key.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runHistory(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func runHistory(t *testing.T, random *rand.Rand) {
	const topic, rounds, steps = "map:1", 6, 60
	r := newRig(t, state.Config{Limits: state.Limits{Changes: 20}})
	write := func(ops ...state.Op) {
		tx := state.Tx{Limits: state.Limits{Changes: 20}}
		if _, err := r.objects.Apply(t.Context(), topic, ops, tx); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	op := func(key string) state.Op {
		if n++; random.IntN(3) == 0 {
			return state.Op{Key: key, Delete: true}
		}
		op := state.Op{Key: key, Value: fmt.Append(nil, n)}
		if random.IntN(10) == 0 {
			ttl := time.Duration(1+random.IntN(2000)) * time.Millisecond
			op.TTL = &ttl
		}
		return op
	}
	keys := func(max int) (ops []state.Op) {
		for _, k := range random.Perm(30)[:1+random.IntN(max)] {
			ops = append(ops, op(fmt.Sprintf("%c%02d", 'a'+k%3, k)))
		}
		return ops
	}
	for range 20 {
		write(keys(20)...)
	}
	var all []*replica
	for _, p := range []replica{
		{mark: "c!"}, {mark: "b!", keys: state.Range{Prefix: "b"}}, {mark: "c!", keys: state.Range{From: "b20", To: "c20"}},
	} {
		p.Map = openMap(t, r.client(), topic, &mirror.Options{Prefix: p.keys.Prefix, From: p.keys.From, To: p.keys.To})
		p.changes, p.replay = read(t, p.Changes(t.Context())), map[string]int{}
		all = append(all, &p)
	}
	pause := func() { <-time.After(time.Duration(random.IntN(30)) * time.Millisecond) }
	for round := 1; round <= rounds; round++ {
		for range steps {
			switch k := random.IntN(20); {
			case k == 0:
				r.cut()
			case k == 1: // a longer absence, in which the store may forget
				r.setDown(true)
				for range random.IntN(10) {
					write(keys(5)...)
				}
				r.setDown(false)
			case k < 6:
				pause()
			case k < 10:
				write(keys(8)...)
			case k == 10: // the mirror of everything writes as well
				for _, op := range keys(3) {
					var err error
					if op.Delete {
						err = all[0].Delete(t.Context(), op.Key)
					} else {
						err = all[0].Set(t.Context(), op.Key, n)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			default:
				write(keys(1)...)
			}
		}
		<-time.After(3 * time.Second) // what expires has expired
		write(state.Op{Key: "a!", Value: fmt.Append(nil, round)}, state.Op{Key: "b!", Value: fmt.Append(nil, round)},
			state.Op{Key: "c!", Value: fmt.Append(nil, round)})
		for i, p := range all {
			p.follow(t, round)
			want := stored(t, r, topic, p.keys)
			if got := maps.Collect(p.All()); !maps.Equal(got, want) {
				t.Fatalf("round %d: mirror %d has\n%v, the store\n%v", round, i, got, want)
			}
			if !maps.Equal(p.replay, want) {
				t.Fatalf("round %d: the changes of mirror %d make\n%v, the store has\n%v", round, i, p.replay, want)
			}
		}
	}
}

// stored returns what the store has.
func stored(t *testing.T, r *rig, topic string, keys state.Range) map[string]int {
	t.Helper()
	p, err := r.store.Read(context.Background(), topic, keys, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	items := map[string]int{}
	for _, it := range p.Items {
		var v int
		if _, err := fmt.Sscan(string(it.Value), &v); err != nil {
			t.Fatal(err)
		}
		items[it.Key] = v
	}
	return items
}
