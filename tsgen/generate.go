package tsgen

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
)

//go:embed template/channels.mjs
var module []byte

//go:embed template/channels.d.mts
var declarations []byte

// Generate returns the types of the handlers in routes as TypeScript, and the module that they are
// of. Equal routes have equal results. The error names a type that JSON does not have.
func Generate(routes channel.Routes) (types, mjs []byte, err error) {
	g := &generator{names: make(map[reflect.Type]string), used: map[string]bool{}}
	for _, name := range reserved {
		g.used[name] = true
	}
	topics := slices.SortedFunc(maps.Keys(routes), byPrecedence)
	var interfaces, union, choice bytes.Buffer
	for _, pattern := range topics {
		name := g.unique(topicName(pattern))
		t := channelhost.TypesOf(routes[pattern])
		if err := g.topic(&interfaces, pattern, name, &t); err != nil {
			return nil, nil, fmt.Errorf("tsgen: route %q: %w", pattern, err)
		}
		fmt.Fprintf(&union, "\n  | %s", topicType(pattern))
		fmt.Fprintf(&choice, "\n  T extends %s ? %s :", topicType(pattern), name)
	}
	var out bytes.Buffer
	out.Write(declarations)
	fmt.Fprintf(&out, "\n/** The topics of all routes. */\nexport type TopicName =%s;\n",
		cmp.Or(union.String(), " never"))
	fmt.Fprintf(&out, "\n/** The types of a topic. */\nexport type TopicOf<T extends TopicName> =%s\n  never;\n",
		&choice)
	out.Write(interfaces.Bytes())
	out.WriteString(g.declared.String())
	return out.Bytes(), slices.Clone(module), nil
}

// reserved are the names that the declarations have already.
var reserved = []string{
	"Push", "Channel", "Socket", "Topic", "TypedChannel", "PushError", "TopicName", "TopicOf",
	"Optional", "Member", "Payload", "Record", "Partial", "ArrayBuffer",
}

// byPrecedence orders routes as channel.Routes chooses them: exact topics, and then longer prefixes
// first. TopicOf is the first one that fits.
func byPrecedence(a, b string) int {
	isPrefix := func(s string) int {
		if strings.HasSuffix(s, "*") {
			return 1
		}
		return 0
	}
	if n := isPrefix(a) - isPrefix(b); n != 0 {
		return n
	}
	if n := len(b) - len(a); n != 0 && isPrefix(a) == 1 {
		return n
	}
	return strings.Compare(a, b)
}

// topicType returns the type of the topics of a route.
func topicType(pattern string) string {
	prefix, isPrefix := strings.CutSuffix(pattern, "*")
	switch {
	case !isPrefix:
		return strconv.Quote(pattern)
	case prefix == "":
		return "string"
	}
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`", "${", "\\${").Replace(prefix) + "${string}`"
}

// topicName returns the name of the interface of a route: "room:*" is RoomTopic.
func topicName(pattern string) string { return exported(pattern) + "Topic" }

// topic writes the interface of a route.
func (g *generator) topic(w *bytes.Buffer, pattern, name string, t *channelhost.Types) error {
	fmt.Fprintf(w, "\n/** The topics %s. */\nexport interface %s {\n", comment(pattern), name)
	params, err := g.sent(t.Params)
	if err != nil {
		return fmt.Errorf("params of joins: %w", err)
	}
	reply, err := g.reply(t.Reply)
	if err != nil {
		return fmt.Errorf("reply to joins: %w", err)
	}
	fmt.Fprintf(w, "  params: %s;\n  reply: %s;\n  pushes: {\n", params, reply)
	for _, event := range slices.Sorted(maps.Keys(t.Events)) {
		payload, err := g.sent(t.Events[event].Payload)
		if err != nil {
			return fmt.Errorf("payload of %q: %w", event, err)
		}
		reply, err := g.reply(t.Events[event].Reply)
		if err != nil {
			return fmt.Errorf("reply to %q: %w", event, err)
		}
		fmt.Fprintf(w, "    %s: { payload: %s; reply: %s };\n", member(event), payload, reply)
	}
	if t.Any {
		w.WriteString("    [event: string]: { payload: any; reply: any };\n")
	}
	w.WriteString("  };\n  events: {\n")
	for _, event := range slices.Sorted(maps.Keys(t.Sent)) {
		payload, err := g.payload(t.Sent[event])
		if err != nil {
			return fmt.Errorf("event %q: %w", event, err)
		}
		fmt.Fprintf(w, "    %s: %s;\n", member(event), payload)
	}
	w.WriteString("  };\n}\n")
	return nil
}

// comment returns a text as it may stand in a comment.
func comment(s string) string { return strings.ReplaceAll(strconv.Quote(s), "*/", "*\u200b/") }
