package offlinetest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"bennu.example/offline"
)

// model is a store as maps.
type model map[string]*modelIdentity

type modelIdentity struct {
	entries map[uint64]offline.Entry
	mirrors map[[2]string]offline.Mirror
}

func (m model) of(identity string) *modelIdentity {
	if m[identity] == nil {
		m[identity] = &modelIdentity{map[uint64]offline.Entry{}, map[[2]string]offline.Mirror{}}
	}
	return m[identity]
}

func (m model) contents(identity string) contents {
	of := m.of(identity)
	return contents{
		entries: slices.SortedFunc(maps.Values(of.entries), func(a, b offline.Entry) int {
			return cmp.Compare(a.Seq, b.Seq)
		}),
		mirrors: slices.SortedFunc(maps.Values(of.mirrors), byName),
	}
}

// op returns a random operation and does it in the model.
func (m *modelIdentity) op(rng *rand.Rand) offline.Op {
	seq, value := 1+uint64(rng.IntN(30)), fmt.Sprint(rng.Uint64())
	topic, kind := fmt.Sprint("room:", rng.IntN(5)), []string{"state", "presence"}[rng.IntN(2)]
	switch rng.IntN(6) {
	case 0:
		delete(m.entries, seq)
		return drop(seq)
	case 1:
		maps.DeleteFunc(m.mirrors, func(k [2]string, _ offline.Mirror) bool { return k[0] == topic })
		return forget(topic)
	case 2, 3:
		m.mirrors[[2]string{topic, kind}] = *mirror(topic, kind, value)
		return keep(topic, kind, value)
	default:
		m.entries[seq] = *entry(seq, value)
		return put(seq, value)
	}
}

// random compares the store with a model.
func (s *suite) random() {
	seed := rand.Uint64()
	s.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	all := []string{"", "a", "b"}
	m := model{}
	for range 200 {
		identity := all[rng.IntN(len(all))]
		switch n := rng.IntN(100); {
		case n == 0:
			if err := s.store.Purge(s.ctx, identity); err != nil {
				s.Fatal(err)
			}
			maps.DeleteFunc(m, func(other string, _ *modelIdentity) bool { return other != identity })
		case n < 5 && s.twice:
			s.stop()
			s.start()
		default:
			var ops []offline.Op
			for range rng.IntN(8) {
				ops = append(ops, m.of(identity).op(rng))
			}
			s.apply(identity, ops...)
		}
		for _, identity := range all {
			s.expect(identity, m.contents(identity))
		}
		if s.Failed() {
			return
		}
	}
}
