package channel

import (
	"fmt"
	"slices"
	"strings"
)

// Routes map topics to the handlers that serve them. A key is an exact topic, or a prefix that
// ends in "*": "room:*" matches "room:", "room:1" and "room:a:b", and "*" matches every topic. If
// several keys match, the exact one wins, then the longest prefix. (In Phoenix, the first route
// that is declared wins.)
type Routes map[string]*Handler

// Router is a compiled Routes. It is for package socket and not covered by the compatibility
// promise.
type Router struct {
	exact    map[string]*Handler
	prefixes []prefix // longest first
}

type prefix struct {
	prefix  string
	handler *Handler
}

// Compile checks the routes: no handler may be nil, and "*" may only stand at the end.
func (r Routes) Compile() (*Router, error) {
	t := &Router{exact: make(map[string]*Handler)}
	for pattern, h := range r {
		p, wild := strings.CutSuffix(pattern, "*")
		switch {
		case h == nil:
			return nil, fmt.Errorf("channel: route %q has no handler", pattern)
		case strings.Contains(p, "*"):
			return nil, fmt.Errorf("channel: route %q: * may only stand at the end", pattern)
		case wild:
			t.prefixes = append(t.prefixes, prefix{p, h})
		default:
			t.exact[pattern] = h
		}
	}
	slices.SortFunc(t.prefixes, func(a, b prefix) int { return len(b.prefix) - len(a.prefix) })
	return t, nil
}

// Match returns the handler of a topic, or nil.
func (t *Router) Match(topic string) *Handler {
	if h, ok := t.exact[topic]; ok {
		return h
	}
	for _, p := range t.prefixes {
		if strings.HasPrefix(topic, p.prefix) {
			return p.handler
		}
	}
	return nil
}
