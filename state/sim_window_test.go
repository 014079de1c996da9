package state_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"bennu.example/state"
)

// simPart is the part of the object that a client of the simulation has. The zero simPart is all.
type simPart struct {
	params  string // of "$state"
	visible bool   // by Config.Visible
	// keep leaves those keys that the client has, of all in order. Nil means that it has all.
	keep func(s simState, keys []string) []string
}

// state returns what the client must have.
func (p simPart) state(s simState) simState {
	if p.keep == nil {
		return s
	}
	keys := make([]string, 0, len(s))
	for k := range s {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return strings.Compare(state.PathKey(a), state.PathKey(b)) })
	part := make(simState)
	for _, k := range p.keep(s, keys) {
		part[k] = s[k]
	}
	return part
}

// simQuery is the query of the numbers that a divisor divides.
var simQuery = state.Query("divided", func(by int, _ string, value any) bool {
	n, ok := value.(float64)
	return ok && int(n)%by == 0
})

func simDivided(s simState, keys []string) []string {
	return slices.DeleteFunc(keys, func(k string) bool {
		var n int
		return json.Unmarshal([]byte(s[k].value), &n) != nil || n%2 != 0
	})
}

// simVisible is Config.Visible.
func simVisible(rev uint64) bool { return rev%3 != 0 }

func simShown(s simState, keys []string) []string {
	return slices.DeleteFunc(keys, func(k string) bool { return !simVisible(s[k].rev) })
}

// simParts are those of the clients that do not have the whole object. Some have the keys of a
// range.
func simParts(from, to string) []simPart {
	ranged := fmt.Sprintf(`"from":%q,"to":%q`, from, to)
	within := func(keys []string) []string {
		return slices.DeleteFunc(keys, func(k string) bool { return k < from || k >= to })
	}
	return []simPart{
		{`"keys":{"first":4}`, false, func(_ simState, keys []string) []string { return keys[:min(4, len(keys))] }},
		{`"keys":{"last":3,` + ranged + `}`, false, func(_ simState, keys []string) []string {
			keys = within(keys)
			return keys[max(0, len(keys)-3):]
		}},
		{`"query":{"name":"divided","args":2}`, false, simDivided},
		{``, true, simShown},
		{`"keys":{"first":3}`, true, func(s simState, keys []string) []string {
			keys = simShown(s, keys)
			return keys[:min(3, len(keys))]
		}},
		{`"query":{"name":"divided","args":2},"keys":{` + ranged + `}`, true, func(s simState, keys []string) []string {
			return simShown(s, simDivided(s, within(keys)))
		}},
	}
}
