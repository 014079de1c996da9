package socket

import (
	"fmt"
	"slices"
	"strings"

	"bennu.example/channel"
)

// router is a compiled channel.Routes.
type router struct {
	exact    map[string]*channel.Handler
	prefixes []prefixRoute // longest first
}

type prefixRoute struct {
	prefix  string
	handler *channel.Handler
}

// newRouter compiles routes. No handler may be nil, and "*" may only stand at the end.
func newRouter(routes channel.Routes) (*router, error) {
	r := &router{exact: make(map[string]*channel.Handler)}
	for pattern, h := range routes {
		prefix, wild := strings.CutSuffix(pattern, "*")
		switch {
		case h == nil:
			return nil, fmt.Errorf("route %q has no handler", pattern)
		case strings.Contains(prefix, "*"):
			return nil, fmt.Errorf("route %q: * may only stand at the end", pattern)
		case wild:
			r.prefixes = append(r.prefixes, prefixRoute{prefix, h})
		default:
			r.exact[pattern] = h
		}
	}
	slices.SortFunc(r.prefixes, func(a, b prefixRoute) int { return len(b.prefix) - len(a.prefix) })
	return r, nil
}

// match returns the handler of a topic, or nil.
func (r *router) match(topic string) *channel.Handler {
	if h, ok := r.exact[topic]; ok {
		return h
	}
	for _, p := range r.prefixes {
		if strings.HasPrefix(topic, p.prefix) {
			return p.handler
		}
	}
	return nil
}
