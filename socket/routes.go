package socket

import (
	"fmt"
	"slices"
	"strings"

	"bennu.example/channel"
)

// reservedTopics begins the topics that are not the program's.
const reservedTopics = "$"

// router is a compiled channel.Routes.
type router struct {
	exact    map[string]*channel.Handler
	prefixes []prefixRoute // longest first
}

type prefixRoute struct {
	prefix  string
	handler *channel.Handler
}

// newRouter compiles routes. No handler may be nil, "*" may only stand at the end, and topics that
// begin with reservedTopics are the socket's own.
func newRouter(routes channel.Routes) (*router, error) {
	r := &router{exact: make(map[string]*channel.Handler)}
	for pattern, h := range routes {
		prefix, wild := strings.CutSuffix(pattern, "*")
		switch {
		case h == nil:
			return nil, fmt.Errorf("route %q has no handler", pattern)
		case strings.HasPrefix(pattern, reservedTopics):
			return nil, fmt.Errorf("route %q: topics that begin with %s are reserved", pattern, reservedTopics)
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

// pattern returns the pattern that matches a topic, or an empty string.
func (r *router) pattern(topic string) string {
	if _, ok := r.exact[topic]; ok {
		return topic
	}
	if strings.HasPrefix(topic, reservedTopics) {
		return ""
	}
	for _, p := range r.prefixes {
		if strings.HasPrefix(topic, p.prefix) {
			return p.prefix + "*"
		}
	}
	return ""
}

// match returns the handler of a topic, or nil.
func (r *router) match(topic string) *channel.Handler {
	if h, ok := r.exact[topic]; ok {
		return h
	}
	if strings.HasPrefix(topic, reservedTopics) {
		return nil // "*" does not match it
	}
	for _, p := range r.prefixes {
		if strings.HasPrefix(topic, p.prefix) {
			return p.handler
		}
	}
	return nil
}
