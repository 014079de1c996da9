package pubsub

import (
	"cmp"
	"slices"
	"strings"

	"bennu.example/history"
)

// ruleTable is a compiled history.Rules.
type ruleTable struct {
	exact    map[string]*history.Keep
	prefixes []prefixRule // longest first
}

type prefixRule struct {
	prefix string
	keep   *history.Keep // nil if nothing is recorded
}

func compileRules(rules history.Rules) (t ruleTable) {
	t.exact = make(map[string]*history.Keep)
	for pattern := range rules {
		prefix, wild := strings.CutSuffix(pattern, "*")
		k, _ := rules.Rule(pattern) // a pattern matches itself, before all shorter ones
		keep := &k
		if k.Events != nil && len(k.Events) == 0 {
			keep = nil
		}
		if wild {
			t.prefixes = append(t.prefixes, prefixRule{prefix, keep})
		} else {
			t.exact[pattern] = keep
		}
	}
	slices.SortFunc(t.prefixes, func(a, b prefixRule) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return t
}

// topic returns the rule of a topic, or nil if nothing of it is recorded.
func (t *ruleTable) topic(topic string) *history.Keep {
	if k, ok := t.exact[topic]; ok {
		return k
	}
	for _, p := range t.prefixes {
		if strings.HasPrefix(topic, p.prefix) {
			return p.keep
		}
	}
	return nil
}
