package tsgen

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"bennu.example/push"
	"bennu.example/serializer"
)

// generator collects the interfaces of structs.
type generator struct {
	names    map[reflect.Type]string // of structs
	depth    int                     // of nested calls of the method of
	used     map[string]bool
	declared strings.Builder
}

// maxDepth bounds types such as type tree map[string]tree, for which there is no interface.
const maxDepth = 200

// typer is implemented by types that choose their type in TypeScript.
type typer interface{ TypeScript() string }

var (
	typeTyper         = reflect.TypeFor[typer]()
	typeMarshaler     = reflect.TypeFor[json.Marshaler]()
	typeTextMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// special are types that encoding/json, or package serializer, treats in ways of their own.
var special = map[reflect.Type]string{
	reflect.TypeFor[time.Time]():          "string",
	reflect.TypeFor[json.Number]():        "number",
	reflect.TypeFor[push.Reply]():         "any",
	reflect.TypeFor[serializer.Payload](): "any",
}

// payload returns the type of a whole payload.
func (g *generator) payload(t reflect.Type) (string, error) {
	if t == reflect.TypeFor[[]byte]() {
		return "ArrayBuffer", nil
	}
	return g.of(t)
}

// sent returns the type of a payload that a page sends. It has no reason to send null.
func (g *generator) sent(t reflect.Type) (string, error) {
	s, err := g.payload(t)
	return strings.TrimSuffix(s, " | null"), err
}

// reply returns the type of a reply. Nil pointers and maps are sent as an empty object.
func (g *generator) reply(t reflect.Type) (string, error) {
	s, err := g.payload(t)
	switch t.Kind() {
	case reflect.Pointer:
		s = "Partial<" + strings.TrimSuffix(s, " | null") + ">"
	case reflect.Map:
		s = strings.TrimSuffix(s, " | null")
	}
	return s, err
}

// of returns the type of a value.
func (g *generator) of(t reflect.Type) (string, error) {
	if g.depth++; g.depth > maxDepth {
		return "", fmt.Errorf("%v is too deep", t)
	}
	defer func() { g.depth-- }()
	if s, ok := special[t]; ok {
		return s, nil
	}
	implements := func(i reflect.Type) bool {
		return t.Kind() != reflect.Interface && (t.Implements(i) || reflect.PointerTo(t).Implements(i))
	}
	if t.Kind() != reflect.Pointer {
		switch {
		case implements(typeTyper):
			return reflect.New(t).Interface().(typer).TypeScript(), nil
		case implements(typeMarshaler):
			return "any", nil
		case implements(typeTextMarshaler):
			return "string", nil
		}
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean", nil
	case reflect.String:
		return "string", nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8,
		reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr, reflect.Float32, reflect.Float64:
		return "number", nil
	case reflect.Interface:
		return "any", nil
	case reflect.Pointer:
		return g.orNull(g.of(t.Elem()))
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return g.orNull("string", nil)
		}
		return g.orNull(g.list(t.Elem()))
	case reflect.Array:
		return g.list(t.Elem())
	case reflect.Map:
		return g.orNull(g.mapOf(t))
	case reflect.Struct:
		return g.structOf(t)
	}
	return "", fmt.Errorf("JSON has no %v", t)
}

func (g *generator) orNull(s string, err error) (string, error) {
	if err != nil || s == "any" || strings.HasSuffix(s, " | null") {
		return s, err
	}
	return s + " | null", nil
}

func (g *generator) list(elem reflect.Type) (string, error) {
	s, err := g.of(elem)
	if err == nil && strings.ContainsAny(s, "|& ") {
		s = "(" + s + ")"
	}
	return s + "[]", err
}

func (g *generator) mapOf(t reflect.Type) (string, error) {
	switch k := t.Key(); k.Kind() {
	case reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint,
		reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
	default:
		if !k.Implements(typeTextMarshaler) {
			return "", fmt.Errorf("JSON has no %v", t)
		}
	}
	s, err := g.of(t.Elem())
	return "Record<string, " + s + ">", err
}

// structOf returns the name of a struct's interface, and declares it the first time. A struct
// without a name has its members in place.
func (g *generator) structOf(t reflect.Type) (string, error) {
	if name, ok := g.names[t]; ok {
		return name, nil
	}
	if t.NumField() == 0 {
		return "{}", nil
	}
	if t.Name() == "" {
		members, err := g.members(t, " ")
		return "{" + members + " }", err
	}
	name := g.nameOf(t)
	g.names[t] = name // before the members, which may have the type
	members, err := g.members(t, "\n  ")
	if err != nil {
		return "", fmt.Errorf("%v: %w", t, err)
	}
	fmt.Fprintf(&g.declared, "\nexport interface %s {%s\n}\n", name, members)
	return name, nil
}

// nameOf returns a name for a type. If another type has its name, the package's stands before it.
func (g *generator) nameOf(t reflect.Type) string {
	name, args, generic := strings.Cut(t.Name(), "[")
	name = exported(name)
	if generic { // the arguments, without the paths of their packages
		for arg := range strings.SplitSeq(strings.TrimSuffix(args, "]"), ",") {
			name += exported(arg[strings.LastIndexAny(arg, "./")+1:])
		}
	}
	if g.used[name] {
		name = exported(t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]) + name
	}
	return g.unique(name)
}

// unique returns the name, with a number if it is used already.
func (g *generator) unique(name string) string {
	free := name
	for n := 2; g.used[free]; n++ {
		free = name + strconv.Itoa(n)
	}
	g.used[free] = true
	return free
}

// exported returns a text as the name of a type: "room:new" is RoomNew.
func exported(s string) string {
	var b strings.Builder
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		runes := []rune(word)
		runes[0] = unicode.ToUpper(runes[0])
		b.WriteString(string(runes))
	}
	name := b.String()
	if name == "" || unicode.IsDigit(rune(name[0])) {
		return "Any" + name
	}
	return name
}

// member returns a name as that of a member.
func member(name string) string {
	for i, r := range name {
		if r != '_' && r != '$' && (r > unicode.MaxASCII || !unicode.IsLetter(r)) && (i == 0 || !unicode.IsDigit(r)) {
			return strconv.Quote(name)
		}
	}
	return cmp.Or(name, `""`)
}

// members returns the members of a struct, each after the separator.
func (g *generator) members(t reflect.Type, separator string) (string, error) {
	var b strings.Builder
	for _, f := range fieldsOf(t) {
		s, err := g.of(f.typ)
		switch {
		case err != nil:
			return "", fmt.Errorf("%s: %w", f.name, err)
		case f.quoted:
			s = "string"
		case f.optional:
			s = strings.TrimSuffix(s, " | null")
		}
		mark := ""
		if f.optional {
			mark = "?"
		}
		fmt.Fprintf(&b, "%s%s%s: %s;", separator, member(f.name), mark, s)
	}
	return b.String(), nil
}

// field is a member of a struct's JSON.
type field struct {
	name             string
	typ              reflect.Type
	optional, quoted bool
	tagged           bool
	index            []int
}

// fieldsOf returns the members of a struct's JSON in order, as encoding/json does. The members of
// embedded structs belong to it. If several have one name, the one of the shallowest struct counts,
// then the one with a tag, and otherwise none.
func fieldsOf(t reflect.Type) []field {
	var all []field
	type level struct {
		typ   reflect.Type
		index []int
	}
	seen := map[reflect.Type]bool{}
	for now := []level{{t, nil}}; len(now) > 0; {
		var next []level
		for _, l := range now {
			if seen[l.typ] {
				continue
			}
			seen[l.typ] = true
			for i := range l.typ.NumField() {
				f := l.typ.Field(i)
				index := append(slices.Clone(l.index), i)
				if inner, ok := embedded(f); ok {
					next = append(next, level{inner, index})
				} else if f, ok := fieldOf(f, index); ok {
					all = append(all, f)
				}
			}
		}
		now = next
	}
	return slices.DeleteFunc(slices.SortedFunc(slices.Values(all), func(a, b field) int {
		return slices.Compare(a.index, b.index)
	}), func(f field) bool { return !dominates(f, all) })
}

// embedded returns the struct whose members belong to the one that embeds it.
func embedded(f reflect.StructField) (reflect.Type, bool) {
	t := f.Type
	if t.Kind() == reflect.Pointer && f.IsExported() {
		t = t.Elem()
	}
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return t, f.Anonymous && name == "" && t.Kind() == reflect.Struct && f.Tag.Get("json") != "-"
}

// fieldOf returns the member that a field is, if it is one.
func fieldOf(f reflect.StructField, index []int) (field, bool) {
	tag := f.Tag.Get("json")
	if !f.IsExported() || tag == "-" {
		return field{}, false
	}
	name, rest, _ := strings.Cut(tag, ",")
	options := strings.Split(rest, ",")
	has := func(option string) bool { return slices.Contains(options, option) }
	quotable := f.Type.Kind() <= reflect.Float64 || f.Type.Kind() == reflect.String
	return field{
		name: cmp.Or(name, f.Name), typ: f.Type, tagged: name != "", index: index,
		optional: has("omitempty") && f.Type.Kind() != reflect.Struct || has("omitzero"),
		quoted:   has("string") && quotable,
	}, true
}

// dominates reports whether f is the field of its name.
func dominates(f field, all []field) bool {
	for _, o := range all {
		if o.name != f.name || slices.Equal(o.index, f.index) {
			continue
		}
		if len(o.index) < len(f.index) || len(o.index) == len(f.index) && (o.tagged || !f.tagged) {
			return false
		}
	}
	return true
}
