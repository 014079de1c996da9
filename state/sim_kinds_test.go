package state_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"bennu.example/channel"
	"bennu.example/state"
)

// simKind is a kind of object in the simulation.
type simKind struct {
	name    string
	seeds   uint64
	handler func(o *state.Objects, cfg state.Config) *channel.Handler
	from    string // some clients have the keys from here
	to      string // to here only
	mayMiss bool   // a write may get "not found"
	// write returns a push, or an empty payload for one of counts.
	write   func(c *simClient) (event, payload string)
	counts  string                                       // a push that counts once, with its id
	count   func(t *testing.T, now simState) int         // of those that were applied
	between func(rng *rand.Rand, keys []string) state.Op // a write of the server. Nil means that of a map
}

// simCounted is the value of list items that are counted. They are not changed or deleted.
const simCounted = `"counted"`

var simKinds = []simKind{
	{
		name: "map", seeds: 40, handler: (*state.Objects).Maps, from: "k", to: "k5", write: writeMap,
		counts: `put {"key":"n","value":{"$inc":1},"$id":%q}`, count: countNumber,
	},
	{
		name: "list", seeds: 6, handler: (*state.Objects).Lists, from: "a", to: "a8", mayMiss: true, write: writeList,
		counts: `insert {"value":` + simCounted + `,"$id":%q}`, count: countItems, between: betweenList,
	},
	{
		name: "tree", seeds: 10, handler: (*state.Objects).Trees, from: "k1", to: "k3", write: writeTree,
		counts: `merge {"key":"","value":{"n":{"$inc":1}},"$id":%q}`, count: countNumber, between: betweenTree,
	},
}

func countNumber(t *testing.T, now simState) (n int) {
	if it, ok := now["n"]; ok {
		if err := json.Unmarshal([]byte(it.value), &n); err != nil {
			t.Error(err)
		}
	}
	return n
}

func countItems(_ *testing.T, now simState) (n int) {
	for _, it := range now {
		if it.value == simCounted {
			n++
		}
	}
	return n
}

// sameValues is a batch of keys that always have one value.
func sameValues(c *simClient) (event, payload string) {
	v := fmt.Sprint(c.rng.IntN(1e9))
	return "batch", `{"ops":[{"op":"put","key":"x","value":` + v + `},{"op":"put","key":"y","value":` + v +
		`},{"op":"put","key":"z","value":` + v + `}]}`
}

func writeMap(c *simClient) (event, payload string) {
	key := fmt.Sprint("k", c.rng.IntN(12))
	switch n := c.rng.IntN(10); {
	case n < 3:
		return "put", fmt.Sprintf(`{"key":%q,"value":%d}`, key, c.ref)
	case n < 5:
		return "del", fmt.Sprintf(`{"key":%q}`, key)
	case n < 7:
		return sameValues(c)
	case n < 8:
		return "put", fmt.Sprintf(`{"key":%q,"value":%d,"ttl":0.3}`, key, c.ref)
	}
	return "", ""
}

func betweenMap(rng *rand.Rand, _ []string) state.Op {
	key := fmt.Sprint("k", rng.IntN(12))
	if rng.IntN(3) == 0 {
		return state.Op{Key: key, Delete: true}
	}
	return state.Op{Key: key, Value: []byte(`"between"`)}
}

func writeList(c *simClient) (event, payload string) {
	keys := slices.Sorted(maps.Keys(c.rows)) // sorted, so that a seed makes the same writes
	if len(keys) == 0 {
		return "insert", fmt.Sprintf(`{"value":%d}`, c.ref)
	}
	after, key := keys[c.rng.IntN(len(keys))], keys[c.rng.IntN(len(keys))]
	isCounted := c.rows[key].value == simCounted
	switch n := c.rng.IntN(10); {
	case n == 0:
		return "insert", fmt.Sprintf(`{"value":%d,"after":null,"ttl":0.3}`, c.ref)
	case n == 1:
		return "insert", fmt.Sprintf(`{"value":%d,"after":%q}`, c.ref, after)
	case n < 5:
		return "move", fmt.Sprintf(`{"key":%q,"after":%q}`, key, after)
	case n < 7 && !isCounted:
		return "del", fmt.Sprintf(`{"key":%q}`, key)
	case n < 8 && !isCounted:
		return "put", fmt.Sprintf(`{"key":%q,"value":%d}`, key, c.ref)
	}
	return "", ""
}

func betweenList(rng *rand.Rand, keys []string) state.Op {
	to := fmt.Sprintf("a%cV%d", '0'+rune(rng.IntN(10)), 1+rng.IntN(9))
	if len(keys) > 0 {
		if from := keys[rng.IntN(len(keys))]; from != to && rng.IntN(4) > 0 {
			return state.Op{Key: to, From: from}
		}
	}
	return state.Op{Key: to, Value: []byte(`"between"`)}
}

// simPath returns a path below one of four.
func simPath(rng *rand.Rand) string {
	path := fmt.Sprint("k", rng.IntN(4))
	for rng.IntN(2) == 0 && len(path) < 7 {
		path += []string{"/a", "/b", "/a-"}[rng.IntN(3)]
	}
	return path
}

func writeTree(c *simClient) (event, payload string) {
	path := simPath(c.rng)
	switch n := c.rng.IntN(12); {
	case n < 3:
		return "put", fmt.Sprintf(`{"key":%q,"value":%d}`, path, c.ref)
	case n == 3:
		return "put", fmt.Sprintf(`{"key":%q,"value":{"a":%d,"b":{"a":1,"a-":2}}}`, path, c.ref)
	case n == 4:
		return "merge", fmt.Sprintf(`{"key":%q,"value":{"a":null,"b":{"b":%d}}}`, path, c.ref)
	case n < 7:
		return "del", fmt.Sprintf(`{"key":%q}`, path)
	case n < 9:
		return sameValues(c)
	case n == 9:
		return "put", fmt.Sprintf(`{"key":%q,"value":%d,"ttl":0.3}`, path, c.ref)
	}
	return "", ""
}

func betweenTree(rng *rand.Rand, _ []string) state.Op {
	op := state.Op{Key: state.PathKey(simPath(rng)), Under: true}
	if op.Delete = rng.IntN(2) == 0; !op.Delete {
		op.Value = []byte(`"between"`)
	}
	return op
}
