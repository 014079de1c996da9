package tsgen_test

import (
	"context"
	"encoding/json"
	"flag"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/npm"
	"bennu.example/internal/testenv/require"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/tsgen"
)

var update = flag.Bool("update", false, "write the golden file")

func TestMain(m *testing.M) { leak.Main(m) }

type room struct{}

type params struct {
	User  string `json:"user"`
	Color color  `json:"color,omitempty"`
}

type color string

func (color) TypeScript() string { return `"red" | "green"` }

type message struct {
	author
	ID      int64           `json:"id,string"`
	Body    string          `json:"body"`
	Sent    time.Time       `json:"sent"`
	Edited  *time.Time      `json:"edited"`
	Answers []message       `json:"answers,omitempty"`
	Tags    []string        `json:"tags"`
	Colors  []color         `json:"colors"`
	Votes   map[string]vote `json:"votes"`
	Raw     json.RawMessage `json:"raw"`
	Digest  []byte          `json:"digest"`
	Pair    [2]float64      `json:"pair"`
	Where   struct {
		X, Y int
	} `json:"where"`
	Position history.Position `json:"position"`
	Any      any              `json:"any-thing"`
	Big      *big.Int         `json:"big"`
	Secret   string           `json:"-"`
	hidden   int
	Dash     bool `json:"-,"`
}

type author struct {
	Name string `json:"name"`
	Body int    `json:"body"` // message.Body hides it
}

type vote uint8

type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitzero"`
}

// Message has the name of another type, but for its case.
type Message struct{ Text string }

const (
	newMsg  channel.Event[message]             = "new_msg"
	cursors channel.Event[map[string]*Message] = "cursors"
	blob    channel.Event[[]byte]              = "blob"
	odd     channel.Event[any]                 = "user's \"own\""
)

type none = struct{}

// on makes a callback with types.
func on[P, R any](event string) channel.Option[room] {
	return channel.On(event, func(*room, context.Context, *channel.Channel, P) (r R, err error) { return r, nil })
}

func handler[P, R any](options ...channel.Option[room]) *channel.Handler {
	join := func(*room, context.Context, *channel.Channel, P) (r R, err error) { return r, nil }
	return channel.Define(join, options...)
}

func routes() channel.Routes {
	typed := handler[params, page[message]](
		on[message, *Message]("new_msg"), on[none, none]("ping"), on[[]byte, push.Reply]("upload"),
		on[page[Message], []string]("list"),
		channel.Sends[room](newMsg), channel.Sends[room](cursors), channel.Sends[room](blob), channel.Sends[room](odd))
	anything := handler[serializer.Payload, any](channel.OnAny(
		func(*room, context.Context, *channel.Channel, string, serializer.Payload) (push.Reply, error) {
			return push.NoReply, nil
		}), on[none, int]("count"))
	return channel.Routes{
		"*": anything, "room:*": typed, "room:vip:*": handler[none, none](), "room": handler[none, none](),
		"back`${x}*": handler[none, none](),
	}
}

// TestGenerate compares the types with testdata/golden.d.mts. Write it by -update.
func TestGenerate(t *testing.T) {
	t.Parallel()
	types, module, err := tsgen.Generate(routes())
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"testdata/golden.d.mts": types, "testdata/golden.mjs": module} {
		if *update {
			if err := os.WriteFile(name, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s differs from\n%s", name, got)
		}
	}
	if again, _, _ := tsgen.Generate(routes()); string(again) != string(types) {
		t.Error("the result depends on the order of maps")
	}
}

// TestGenerateJSON checks that the members of message are those that encoding/json writes.
func TestGenerateJSON(t *testing.T) {
	t.Parallel()
	types, _, err := tsgen.Generate(channel.Routes{"room": handler[message, none]()})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(message{hidden: 1, Answers: []message{{}}})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(types), "export interface Message {\n")
	body, _, _ = strings.Cut(body, "\n}")
	declared := strings.Split(body, "\n")
	if len(declared) != len(members) {
		t.Errorf("%d members are declared, and %d written: %s\n%s", len(declared), len(members), body, text)
	}
	for name := range members {
		if !strings.Contains(body, name+":") && !strings.Contains(body, name+"?:") && !strings.Contains(body, `"`+name+`":`) {
			t.Errorf("%s is not declared", name)
		}
	}
}

func TestGenerateFails(t *testing.T) {
	t.Parallel()
	type bad struct{ F []func() }
	type deep map[string]deep
	for want, h := range map[string]*channel.Handler{
		`tsgen: route "room": params of joins: tsgen_test.deep is too deep`:           handler[deep, none](),
		`tsgen: route "room": params of joins: tsgen_test.bad: F: JSON has no func()`: handler[bad, none](),
		`tsgen: route "room": reply to joins: JSON has no chan int`:                   handler[none, chan int](),
		`tsgen: route "room": payload of "a": JSON has no map[bool]int`: handler[none, none](
			on[map[bool]int, none]("a")),
		`tsgen: route "room": reply to "b": JSON has no complex128`: handler[none, none](
			on[none, complex128]("b")),
		`tsgen: route "room": event "c": JSON has no chan int`: handler[none, none](
			channel.Sends[room](channel.Event[chan int]("c"))),
	} {
		if _, _, err := tsgen.Generate(channel.Routes{"room": h}); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// TestTypes type-checks testdata/page.mts, which uses the golden types, and has the mistakes that
// they must find.
func TestTypes(t *testing.T) {
	t.Parallel()
	tsc := filepath.Join(npm.Modules(t), "node_modules", "typescript", "bin", "tsc")
	cmd := exec.Command(require.Program(t, "node"), tsc, "--noEmit", "--strict", "--skipDefaultLibCheck",
		"--target", "es2022", "--module", "nodenext", "testdata/page.mts")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tsc: %v\n%s", err, out)
	}
}
