package state_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/state"
)

var (
	epochs    = regexp.MustCompile(`"id":"[0-9a-z]{12}"`)
	positions = regexp.MustCompile(`"[0-9a-z]{8,12}-([0-9]+)-[0-9a-z]{4}"`)
	times     = regexp.MustCompile(`17[0-9]{11}`)
	keys      = regexp.MustCompile(`(["/])[0-9a-hjkmnp-tv-z]{26}(["/])`)
	lifetimes = regexp.MustCompile(`"expires_in":(59|60)(\.[0-9]+)?`)
)

// plain replaces what differs each time in a message: a position becomes its revision.
func plain(v any) string {
	s := epochs.ReplaceAllString(fmt.Sprint(v), `"id":"E"`)
	s = positions.ReplaceAllString(s, `"@$1"`)
	s = times.ReplaceAllString(s, `NOW`)
	s = keys.ReplaceAllString(s, `${1}KEY${2}`)
	return lifetimes.ReplaceAllString(s, `"expires_in":60`)
}

// play sends messages of a client. Each reply, and each event that came before it, must be as
// wanted. A message that begins with "<" is not sent: it is the next event.
func play(t *testing.T, c *conn, topic string, steps ...[2]string) {
	t.Helper()
	for _, s := range steps {
		if s[0] == "<" {
			if got := plain(c.next()); got != topic+" "+s[1] {
				t.Fatalf("got  %s\nwant %s %s", got, topic, s[1]) // the next one may never come
			}
			continue
		}
		event, payload, _ := strings.Cut(s[0], " ")
		status, response, before := c.push(topic, event, payload)
		got := plain(status + " " + text(response))
		for _, m := range before {
			got += "\n" + plain(m)
		}
		if want := strings.ReplaceAll(s[1], "\n", "\n"+topic+" "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", s[0], got, want)
		}
	}
}

const docLimits = `"limits":{"batch":1,"items":1,"value":65536}`

func TestDocument(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a, b := r.dial(), r.dial()
	play(t, a, "doc:1",
		[2]string{`phx_join {}`, `ok {"$state":{"kind":"document",` + docLimits +
			`,"pos":"@0","recovered":false,"rev":0,"value":null,"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@0"}`},
		[2]string{`put {"value":{"n":1}}`, "ok {\"rev\":1}\nput {\"$pos\":\"@1\",\"rev\":1,\"value\":{\"n\":1}}"},
		[2]string{`put {"if":1,"value":2}`, "ok {\"rev\":2}\nput {\"$pos\":\"@2\",\"rev\":2,\"value\":2}"},
		[2]string{`put {"if":1,"value":3}`, `error {"reason":"conflict","rev":2,"value":2}`},
		[2]string{
			`merge {"value":{"a":1,"b":{"c":{"$inc":2}}}}`,
			"ok {\"rev\":3}\nput {\"$pos\":\"@3\",\"rev\":3,\"value\":{\"a\":1,\"b\":{\"c\":2}}}",
		},
		[2]string{
			`merge {"value":{"a":null,"b":{"c":{"$inc":0.5},"t":{"$now":true}}},"if":3}`,
			"ok {\"rev\":4}\nput {\"$pos\":\"@4\",\"rev\":4,\"value\":{\"b\":{\"c\":2.5,\"t\":NOW}}}",
		},
		[2]string{`merge {"value":{"a":1},"if":3}`, `error {"reason":"conflict","rev":4,"value":{"b":{"c":2.5,"t":NOW}}}`},
	)
	play(t, b, "doc:1",
		[2]string{`phx_join {"$state":{"value":{"x":1},"mode":"existing"}}`,
			`ok {"$state":{"id":"E","kind":"document",` + docLimits +
				`,"pos":"@4","recovered":false,"rev":4,"value":{"b":{"c":2.5,"t":NOW}},"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@4"}`},
		[2]string{`del {}`, "ok {\"rev\":5}\ndel {\"$pos\":\"@5\",\"reason\":\"deleted\",\"rev\":5}"},
		[2]string{`del {}`, `ok {"rev":5}`},
		[2]string{`batch {"ops":[{"op":"put","value":{"$key":true}}]}`, "ok {\"keys\":[\"\"],\"revs\":[6]}\n" +
			`put {"$pos":"@6","rev":6,"value":""}`},
		[2]string{`remove {}`, `ok {}`},
		[2]string{"<", `phx_close {"reason":"removed"}`},
		[2]string{`phx_join {}`, `ok {"$state":{"kind":"document",` + docLimits +
			`,"pos":"@0","recovered":false,"rev":0,"value":null,"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@0"}`},
	)
	play(t, a, "doc:1",
		[2]string{"<", `del {"$pos":"@5","reason":"deleted","rev":5}`},
		[2]string{"<", `put {"$pos":"@6","rev":6,"value":""}`},
		[2]string{"<", `phx_close {"reason":"removed"}`},
	)
}

const mapLimits = `"limits":{"batch":100,"items":100000,"value":65536}`

func TestMap(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a := r.dial()
	play(t, a, "map:1",
		[2]string{`phx_join {}`, `ok {"$state":{"items":[],"kind":"map",` + mapLimits +
			`,"pos":"@0","recovered":false,"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@0"}`},
		[2]string{`put {"key":"b","value":1}`, "ok {\"rev\":1}\nput {\"$pos\":\"@1\",\"key\":\"b\",\"rev\":1,\"value\":1}"},
		[2]string{
			`batch {"ops":[{"op":"put","key":"a","value":{"$key":true},"ttl":60},{"op":"del","key":"b","if":1},
				{"op":"add","value":[{"$inc":7}]},{"op":"merge","key":"c","value":{"x":null,"y":1}},{"op":"del","key":"z"}]}`,
			"ok {\"keys\":[\"a\",\"b\",\"KEY\",\"c\",\"z\"],\"revs\":[2,3,4,5,0]}\n" +
				`batch {"$pos":"@5","items":[{"key":"a","rev":2,"value":"a"},{"del":"deleted","key":"b","rev":3},` +
				`{"key":"KEY","rev":4,"value":[7]},{"key":"c","rev":5,"value":{"y":1}}]}`,
		},
		[2]string{
			`batch {"ops":[{"op":"put","key":"x","value":1},{"op":"put","key":"a","value":1,"if":9}]}`,
			`error {"key":"a","reason":"conflict","rev":2,"value":"a"}`,
		},
		[2]string{`put {"key":"b","value":1,"if":3}`, `error {"reason":"conflict","rev":0,"value":null}`},
		[2]string{`add {"value":1}`,
			"ok {\"key\":\"KEY\",\"rev\":6}\nput {\"$pos\":\"@6\",\"key\":\"KEY\",\"rev\":6,\"value\":1}"},
		[2]string{
			`read {"keys":{"from":"a","to":"d"},"max":1}`,
			`ok {"items":[{"expires_in":60,"key":"a","rev":2,"value":"a"}],"next":"c"}`,
		},
		[2]string{
			`read {"keys":{"from":"a","to":"d"},"next":"c"}`,
			`ok {"items":[{"key":"c","rev":5,"value":{"y":1}}]}`,
		},
		[2]string{
			`put {"key":"a","value":0,"ttl":null}`,
			"ok {\"rev\":7}\nput {\"$pos\":\"@7\",\"key\":\"a\",\"rev\":7,\"value\":0}",
		},
		[2]string{`read {"keys":{"prefix":"a"}}`, `ok {"items":[{"key":"a","rev":7,"value":0}]}`},
		[2]string{`put {"$id":"i","key":"a","value":1}`,
			"ok {\"rev\":8}\nput {\"$pos\":\"@8\",\"key\":\"a\",\"rev\":8,\"value\":1}"},
		[2]string{`put {"$id":"i","key":"a","value":1}`, `ok {"rev":8}`},
	)
	status, first, _ := a.push("map:1", "add", `{"$id":"j","value":1}`)
	_, again, _ := a.push("map:1", "add", `{"$id":"j","value":1}`)
	if status != "ok" || text(first) != text(again) {
		t.Errorf("repeated: %v, then %v", first, again)
	}
}

// A client whose $id is that of another client writes nevertheless.
func TestIDsOfClients(t *testing.T) {
	t.Parallel()
	r := memory(t)
	for i := range 2 {
		c := r.dial()
		c.join("doc:1", `{}`)
		if rev := c.ok("doc:1", "put", `{"$id":"same","value":1}`)["rev"]; rev != float64(i+1) {
			t.Errorf("client %d: revision %v", i, rev)
		}
	}
}

// broken is a store that fails.
type broken struct {
	state.Store
	err error
}

func (s broken) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	if s.err != nil {
		return state.Applied{}, s.err
	}
	<-ctx.Done()
	return state.Applied{}, ctx.Err()
}

// run starts Run, which ends with the test.
func run(t testing.TB, o *state.Objects) *state.Objects {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return o
}

// TestErrors has each reason of an error reply.
func TestErrors(t *testing.T) {
	t.Parallel()
	long, big := strings.Repeat("k", 257), `"`+strings.Repeat("x", 100)+`"`
	allow := func(_ context.Context, _ *channel.Channel, a state.Access) error {
		switch {
		case strings.HasPrefix(a.Topic, "map:secret"):
			return errors.New("not for clients")
		case a.Op.Key == "mine":
			return push.Reject(map[string]string{"reason": "not yours", "owner": "ann"})
		case a.Op.Key == "theirs":
			return push.Reason("theirs")
		case a.Op.Key == "hidden", string(a.Op.Value) == `{"n":3}`, a.Action == state.Remove && a.Topic == "map:kept":
			return state.ErrForbidden
		}
		return nil
	}
	limits := state.Limits{Value: 100, Items: 3, Batch: 3, Rows: 1}
	cfg := state.Config{Allow: allow, Limits: limits, Queries: []state.QueryDef{over, anything}}
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})), cfg)
	_, err := r.objects.Apply(t.Context(), "map:1", []state.Op{
		{Key: "a", Value: []byte(`1`)}, {Key: "b", Value: []byte(`"text"`)}, {Key: "c", Value: []byte(`{"n":1}`)},
	}, state.Tx{})
	if err != nil {
		t.Fatal(err)
	}
	for topic, keys := range map[string][]string{
		"tree:1": {state.PathKey("leaf/n")}, "list:bad": {"no list"}, "list:2": {"a0V1"},
	} {
		for _, key := range keys {
			ops := []state.Op{{Key: key, Value: []byte(`1`)}}
			if _, err := r.objects.Apply(t.Context(), topic, ops, state.Tx{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ops := []state.Op{{Key: state.PathKey("leaf/s"), Value: []byte(`"text"`)}}
	if _, err := r.objects.Apply(t.Context(), "tree:1", ops, state.Tx{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ topic, event, payload, want string }{
		{"map:1", "phx_join", `{"$state":{"since":"x"}}`, `{"reason":"invalid position"}`},
		{"map:1", "phx_join", `{"$state":{"since":1}}`, `{"reason":"invalid position"}`},
		{"map:1", "phx_join", `{"$state":{"mode":"maybe"}}`, `{"reason":"invalid","what":"mode"}`},
		{"map:1", "phx_join", `{"$state":{"mode":"new"}}`, `{"reason":"exists"}`},
		{"map:none", "phx_join", `{"$state":{"mode":"existing"}}`, `{"reason":"not found"}`},
		{"map:1", "phx_join", `{"$state":{"value":1}}`, `{"reason":"invalid","what":"value"}`},
		{"map:1", "phx_join", `{"$state":{"ttl":-1}}`, `{"reason":"invalid","what":"ttl"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"first":0}}}`, `{"reason":"invalid","what":"first"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"last":1001}}}`, `{"reason":"invalid","what":"last"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"first":1,"last":1}}}`, `{"reason":"invalid","what":"last"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"first":1.5}}}`, `{"reason":"invalid","what":"first"}`},
		{"map:1", "phx_join", `{"$state":{"query":{"name":"none"}}}`, `{"reason":"invalid","what":"query"}`},
		{"map:1", "phx_join", `{"$state":{"query":{"name":"over","args":"x"}}}`, `{"reason":"invalid","what":"args"}`},
		{"map:1", "phx_join", `{"$state":{"query":{"name":"over","max":1}}}`, `{"reason":"invalid","what":"max"}`},
		{"map:1", "phx_join", `{"$state":{"query":{}}}`, `{"reason":"invalid","what":"name"}`},
		{"map:1", "phx_join", `{"$state":{"query":1}}`, `{"reason":"invalid","what":"query"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"first":1},"query":{"name":"over"}}}`,
			`{"reason":"invalid","what":"query"}`},
		{"map:1", "phx_join", `{"$state":{"query":{"name":"any"}}}`, `{"max":1,"reason":"quota"}`},
		{"doc:1", "phx_join", `{"$state":{"query":{"name":"over"}}}`, `{"reason":"invalid","what":"query"}`},
		{"doc:1", "phx_join", `{"$state":{"keys":{"first":1}}}`, `{"reason":"invalid","what":"keys"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"path":"a"}}}`, `{"reason":"invalid","what":"path"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{}}}`, `{"reason":"invalid","what":"keys"}`},
		{"map:1", "phx_join", `{"$state":{"keys":{"prefix":"a","to":"b"}}}`, `{"reason":"invalid","what":"keys"}`},
		{"map:1", "phx_join", `{"$state":{"query":{"name":"q"}}}`, `{"reason":"invalid","what":"query"}`},
		{"map:1", "phx_join", `{"$state":{"before":1}}`, `{"reason":"invalid","what":"before"}`},
		{"map:1", "phx_join", `{"$state":[]}`, `{"reason":"invalid","what":"$state"}`},
		{"map:1", "phx_join", `5`, `{}`},
		{"doc:1", "phx_join", `{"$state":{"keys":{"prefix":"a"}}}`, `{"reason":"invalid","what":"keys"}`},
		{"doc:1", "phx_join", `{"$state":{"value":{"$no":1}}}`, `{"reason":"invalid","what":"$no"}`},
		{"doc:1", "phx_join", `{"$state":{"value":` + big + `}}`, `{"max":100,"reason":"too large"}`},
		{"map:secret", "phx_join", `{}`, `{"reason":"forbidden"}`},

		{"map:1", "put", `5`, `{"reason":"invalid","what":"payload"}`},
		{"map:1", "put", `{"value":1}`, `{"reason":"invalid","what":"key"}`},
		{"map:1", "put", `{"key":"","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"map:1", "put", `{"key":7,"value":1}`, `{"reason":"invalid","what":"key"}`},
		{"map:1", "put", `{"key":"a\n","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"map:1", "put", `{"key":"` + long + `","value":1}`, `{"max":256,"reason":"too large"}`},
		{"map:1", "put", `{"key":"a"}`, `{"reason":"invalid","what":"value"}`},
		{"map:1", "put", `{"key":"a","value":` + big + `}`, `{"max":100,"reason":"too large"}`},
		{"map:1", "put", `{"key":"a","value":1,"if":-1}`, `{"reason":"invalid","what":"if"}`},
		{"map:1", "put", `{"key":"a","value":1,"if":1.5}`, `{"reason":"invalid","what":"if"}`},
		{"map:1", "put", `{"key":"a","value":1,"ttl":0}`, `{"reason":"invalid","what":"ttl"}`},
		{"map:1", "put", `{"key":"a","value":1,"ttl":"x"}`, `{"reason":"invalid","what":"ttl"}`},
		{"map:1", "put", `{"key":"a","value":1,"what":1}`, `{"reason":"invalid","what":"what"}`},
		{"map:1", "put", `{"key":"a","value":1,"$id":""}`, `{"reason":"invalid","what":"$id"}`},
		{"map:1", "put", `{"key":"a","value":1,"$id":"` + strings.Repeat("i", 65) + `"}`,
			`{"reason":"invalid","what":"$id"}`},
		{"map:1", "put", `{"key":"a","value":{"$unknown":1}}`, `{"reason":"invalid","what":"$unknown"}`},
		{"map:1", "put", `{"key":"a","value":{"x":1,"$now":true}}`, `{"reason":"invalid","what":"$now"}`},
		{"map:1", "put", `{"key":"a","value":{"$now":true,"x":1}}`, `{"reason":"invalid","what":"$now"}`},
		{"map:1", "put", `{"key":"a","value":{"$now":1}}`, `{"reason":"invalid","what":"$now"}`},
		{"map:1", "put", `{"key":"a","value":{"$inc":[1]}}`, `{"reason":"invalid","what":"$inc"}`},
		{"map:1", "put", `{"key":"b","value":{"$inc":1}}`, `{"reason":"invalid","what":"$inc"}`},
		{"map:1", "put", `{"key":"a","value":{"\u0024inc":"x"}}`, `{"reason":"invalid","what":"$inc"}`},
		{"map:1", "put", `{"key":"a","value":2,"if":7}`, `{"reason":"conflict","rev":1,"value":1}`},
		{"map:1", "put", `{"key":"a","value":{"$inc":1},"if":7}`, `{"reason":"conflict","rev":1,"value":1}`},
		{"map:1", "put", `{"key":"d","value":1}`, `{"max":3,"reason":"quota"}`},
		{"map:1", "put", `{"key":"hidden","value":1}`, `{"reason":"forbidden"}`},
		{"map:1", "put", `{"key":"mine","value":1}`, `{"owner":"ann","reason":"not yours"}`},
		{"map:1", "put", `{"key":"theirs","value":1}`, `{"reason":"theirs"}`},
		{"map:1", "merge", `{"key":"a","value":1}`, `{"reason":"invalid","what":"value"}`},
		{"map:1", "merge", `{"key":"c","value":{"n":{"$inc":2}}}`, `{"reason":"forbidden"}`},
		{"map:1", "merge", `{"key":"c","value":{"n":2},"ttl":1}`, `{"reason":"invalid","what":"ttl"}`},
		{"map:1", "del", `{"key":"a","ttl":1}`, `{"reason":"invalid","what":"ttl"}`},
		{"map:1", "del", `{"key":"a","value":1}`, `{"reason":"invalid","what":"value"}`},
		{"map:1", "del", `{"key":"a","if":2}`, `{"reason":"conflict","rev":1,"value":1}`},
		{"map:1", "add", `{"key":"a","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"map:1", "add", `{"value":1,"if":1}`, `{"reason":"invalid","what":"if"}`},
		{"map:1", "batch", `{}`, `{"reason":"invalid","what":"ops"}`},
		{"map:1", "batch", `{"ops":[]}`, `{"reason":"invalid","what":"ops"}`},
		{"map:1", "batch", `{"ops":[1]}`, `{"reason":"invalid","what":"ops"}`},
		{"map:1", "batch", `{"ops":[{"key":"a"}]}`, `{"reason":"invalid","what":"op"}`},
		{"map:1", "batch", `{"ops":[null]}`, `{"reason":"invalid","what":"op"}`},
		{"map:1", "batch", `{"ops":[{"op":"batch","ops":[]}]}`, `{"reason":"invalid","what":"batch"}`},
		{"map:1", "batch", `{"ops":[{"op":"insert","value":1}]}`, `{"reason":"invalid","what":"insert"}`},
		{"map:1", "batch", `{"ops":[{"op":"del","key":"a","$id":"x"}]}`, `{"reason":"invalid","what":"$id"}`},
		{"map:1", "batch", `{"ops":[{"op":"del","key":"a"},{"op":"del","key":"a"}]}`, `{"reason":"invalid","what":"key"}`},
		{"map:1", "batch", `{"ops":[{"op":"del","key":"a"},{"op":"del","key":"b"},` +
			`{"op":"del","key":"c"},{"op":"del","key":"d"}]}`,
			`{"max":3,"reason":"too large"}`},
		{"map:1", "batch", `{"ops":[{"op":"del","key":"a"},{"op":"put","key":"hidden","value":1}]}`,
			`{"reason":"forbidden"}`},
		{"map:1", "read", `{"max":0}`, `{"reason":"invalid","what":"max"}`},
		{"map:1", "read", `{"keys":{"last":1}}`, `{"reason":"invalid","what":"last"}`},
		{"map:1", "read", `{"from":"a"}`, `{"reason":"invalid","what":"from"}`},
		{"map:1", "remove", `{"key":"a"}`, `{"reason":"invalid","what":"key"}`},
		{"map:kept", "remove", `{}`, `{"reason":"forbidden"}`},
		{"map:none", "remove", `{}`, `{"reason":"not found"}`},
		{"doc:1", "put", `{"key":"a","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"doc:1", "add", `{"value":1}`, `{"reason":"invalid","what":"add"}`},
		{"doc:1", "read", `{}`, `{"reason":"invalid","what":"read"}`},
		{"doc:1", "batch", `{"ops":[{"op":"put","value":1},{"op":"put","value":2}]}`, `{"max":1,"reason":"too large"}`},
		{"map:1", "insert", `{"value":1}`, `{"reason":"invalid","what":"insert"}`},
		{"map:1", "move", `{"key":"a"}`, `{"reason":"invalid","what":"move"}`},
		{"list:1", "put", `{"key":"a0","value":1}`, `{"reason":"not found"}`},
		{"list:1", "put", `{"key":"a0","value":1,"if":0}`, `{"reason":"not found"}`},
		{"list:1", "put", `{"value":1}`, `{"reason":"invalid","what":"key"}`},
		{"list:1", "add", `{"value":1}`, `{"reason":"invalid","what":"add"}`},
		{"list:1", "merge", `{"key":"a0","value":{}}`, `{"reason":"invalid","what":"merge"}`},
		{"list:1", "insert", `{}`, `{"reason":"invalid","what":"value"}`},
		{"list:1", "insert", `{"value":1,"key":"a0"}`, `{"reason":"invalid","what":"key"}`},
		{"list:1", "insert", `{"value":1,"if":0}`, `{"reason":"invalid","what":"if"}`},
		{"list:1", "insert", `{"value":1,"after":""}`, `{"reason":"invalid","what":"after"}`},
		{"list:1", "insert", `{"value":1,"after":7}`, `{"reason":"invalid","what":"after"}`},
		{"list:1", "insert", `{"value":1,"after":"` + long + `"}`, `{"reason":"invalid","what":"after"}`},
		{"list:1", "insert", `{"value":1,"after":"a0"}`, `{"reason":"not found"}`},
		{"list:1", "insert", `{"value":` + big + `}`, `{"max":100,"reason":"too large"}`},
		{"list:1", "insert", `{"value":{"n":3}}`, `{"reason":"forbidden"}`},
		{"list:1", "insert", `{"value":{"$no":3}}`, `{"reason":"invalid","what":"$no"}`},
		{"list:1", "move", `{"after":null}`, `{"reason":"invalid","what":"key"}`},
		{"list:1", "move", `{"key":"a0","value":1}`, `{"reason":"invalid","what":"value"}`},
		{"list:1", "move", `{"key":"a0","after":null}`, `{"reason":"not found"}`},
		{"list:1", "move", `{"key":"` + long + `","after":null}`, `{"max":256,"reason":"too large"}`},
		{"list:bad", "insert", `{"value":1}`, `{"reason":"invalid","what":"list key"}`},
		{"list:1", "batch", `{"ops":[{"op":"insert","value":1},{"op":"insert","value":1,"after":"a0"}]}`,
			`{"reason":"not found"}`},
		{"list:1", "batch", `{"ops":[{"op":"insert","value":1},{"op":"move","key":"a0"},{"op":"move","key":"a0"}]}`,
			`{"reason":"invalid","what":"key"}`},
		{"list:2", "batch", `{"ops":[{"op":"move","key":"a0V1"},{"op":"move","key":"a0V1"}]}`,
			`{"reason":"invalid","what":"key"}`},

		{"tree:1", "phx_join", `{"$state":{"keys":{"prefix":"a"}}}`, `{"reason":"invalid","what":"prefix"}`},
		{"tree:1", "phx_join", `{"$state":{"keys":{"path":"a//b"}}}`, `{"reason":"invalid","what":"path"}`},
		{"tree:1", "phx_join", `{"$state":{"keys":{"path":"a","from":"b"}}}`, `{"reason":"invalid","what":"from"}`},
		{"tree:1", "phx_join", `{"$state":{"keys":{"from":"a/"}}}`, `{"reason":"invalid","what":"keys"}`},
		{"tree:1", "put", `{"value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"/a","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"a/","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"a\u0001b","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"a/b\n","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"","value":{"$now":true}}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"` + long[:129] + `","value":1}`, `{"max":128,"reason":"too large"}`},
		{"tree:1", "put", `{"key":"a` + strings.Repeat("/a", 32) + `","value":1}`, `{"max":32,"reason":"too large"}`},
		{"tree:1", "put", `{"key":"a` + strings.Repeat("/"+long[:127], 8) + `","value":1}`,
			`{"max":1024,"reason":"too large"}`},
		{"tree:1", "put", `{"key":"a` + strings.Repeat("/a", 31) + `","value":{"a":1}}`,
			`{"max":32,"reason":"too large"}`},
		{"tree:1", "put", `{"key":"a","value":{"":1}}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "put", `{"key":"a","value":{"b/c":1}}`, `{"reason":"invalid","what":"value"}`},
		{"tree:1", "put", `{"key":"a","value":{"b":{"$now":true,"c":1}}}`, `{"reason":"invalid","what":"$now"}`},
		{"tree:1", "put", `{"key":"a","value":{"b":{"$no":1}}}`, `{"reason":"invalid","what":"$no"}`},
		{"tree:1", "put", `{"key":"a","value":{"b":[{"$no":1}]}}`, `{"reason":"invalid","what":"$no"}`},
		{"tree:1", "put", `{"key":"a","value":null,"ttl":1}`, `{"reason":"invalid","what":"ttl"}`},
		{"tree:1", "put", `{"key":"a","value":{"a":{"n":3},"b":{"c":1},"d":1,"e":1}}`, `{"max":3,"reason":"quota"}`},
		{"tree:1", "put", `{"key":"leaf/n","value":2,"if":7}`, `{"reason":"conflict","rev":1,"value":1}`},
		{"tree:1", "put", `{"key":"leaf","value":2,"if":0}`, `{"reason":"invalid","what":"if"}`},
		{"tree:1", "put", `{"key":"leaf","value":{"$inc":1}}`, `{"reason":"invalid","what":"if"}`},
		{"tree:1", "put", `{"key":"leaf/s","value":{"$inc":1}}`, `{"reason":"invalid","what":"$inc"}`},
		{"tree:1", "put", `{"key":"hidden","value":1}`, `{"reason":"forbidden"}`},
		{"tree:1", "merge", `{"key":"a","value":{}}`, `{"reason":"invalid","what":"value"}`},
		{"tree:1", "merge", `{"key":"a","value":1}`, `{"reason":"invalid","what":"value"}`},
		{"tree:1", "merge", `{"key":"a","value":{"":1}}`, `{"reason":"invalid","what":""}`},
		{"tree:1", "merge", `{"key":"a","value":{"b":1,"b/c":1}}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "merge", `{"key":"a","value":{"b":1},"if":0}`, `{"reason":"invalid","what":"if"}`},
		{"tree:1", "merge", `{"key":"a","value":{"$inc":1}}`, `{"reason":"invalid","what":"$inc"}`},
		{"tree:1", "add", `{"path":"a//b","value":1}`, `{"reason":"invalid","what":"key"}`},
		{"tree:1", "add", `{"path":7,"value":1}`, `{"reason":"invalid","what":"path"}`},
		{"tree:1", "add", `{"value":{}}`, `{"reason":"invalid","what":"value"}`},
		{"tree:1", "batch", `{"ops":[{"op":"put","key":"a","value":1},{"op":"del","key":"a/b"}]}`,
			`{"reason":"invalid","what":"key"}`},
		{"tree:1", "batch", `{"ops":[{"op":"put","key":"a","value":1},{"op":"del","key":""}]}`,
			`{"reason":"invalid","what":"key"}`},
		{"tree:1", "insert", `{"value":1}`, `{"reason":"invalid","what":"insert"}`},
		{"tree:1", "read", `{"keys":{"path":"/"}}`, `{"reason":"invalid","what":"path"}`},
		{"map:1", "query", `{"name":"q"}`, `{"reason":"invalid","what":"query"}`},
		{"map:1", "query", `{}`, `{"reason":"invalid","what":"name"}`},
		{"map:1", "query", `{"name":"over","args":[]}`, `{"reason":"invalid","what":"args"}`},
		{"map:1", "query", `{"name":"over","max":0}`, `{"reason":"invalid","what":"max"}`},
		{"map:1", "query", `{"name":"over","keys":{}}`, `{"reason":"invalid","what":"keys"}`},
		{"doc:1", "query", `{"name":"over"}`, `{"reason":"invalid","what":"query"}`},
		{"map:1", "publish", `{"value":1}`, `{"reason":"invalid","what":"publish"}`},
		{"map:1", "snapshot", `{"value":1}`, `{"reason":"invalid","what":"snapshot"}`},
	} {
		t.Run(fmt.Sprintf("%s %s %.60s", test.topic, test.event, test.payload), func(t *testing.T) {
			t.Parallel()
			c := r.dial()
			c.t = t
			if test.event != "phx_join" {
				c.join(test.topic, `{}`)
			}
			status, response, _ := c.push(test.topic, test.event, test.payload)
			if test.want == `{}` { // $state is absent, whatever the payload is
				if status != "ok" {
					t.Errorf("%s %v", status, response)
				}
				return
			}
			if status != "error" || text(response) != test.want {
				t.Errorf("%s %s, want %s", status, text(response), test.want)
			}
			if test.event == "phx_join" {
				return
			}
			if status, response, _ = c.push(test.topic, "del", `{"key":"absent"}`); status == "error" &&
				text(response) != `{"reason":"invalid","what":"key"}` {
				t.Errorf("the channel does not go on: %v", response)
			}
		})
	}
	t.Run("nothing was changed", func(t *testing.T) {
		c := r.dial()
		c.t = t
		if st, _ := c.join("map:1", `{}`); len(st["items"].([]any)) != 3 {
			t.Errorf("%v", st["items"])
		}
	})
}

// TestStoreErrors has the errors of a store that does not answer, or is full.
func TestStoreErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, `{"reason":"unavailable"}`}, // it waits until the context ends
		{history.ErrUnavailable, `{"reason":"unavailable"}`},
		{fmt.Errorf("engine: %w", history.ErrUncertain), `{"reason":"unavailable"}`},
		{&state.LimitError{Err: state.ErrQuota, What: "store", Max: 7}, `{"max":7,"reason":"quota"}`},
		{fmt.Errorf("engine: %w", state.ErrTooLarge), `{"reason":"too large"}`},
		{state.ErrQuota, `{"reason":"quota"}`},
		{state.ErrInvalid, `{"reason":"invalid"}`},
	} {
		t.Run(fmt.Sprint(test.err), func(t *testing.T) {
			t.Parallel()
			store := broken{state.NewMemory(state.MemoryConfig{}), test.err}
			r := serve(t, run(t, state.New(store)), state.Config{Allow: allowAll})
			c := r.dial()
			c.join("map:1", `{}`)
			for _, payload := range []string{`{"key":"a","value":1}`, `{"key":"a","value":{"$inc":1}}`} {
				if status, response, _ := c.push("map:1", "put", payload); status != "error" || text(response) != test.want {
					t.Errorf("%s %s, want %s", status, text(response), test.want)
				}
			}
			if status, response, _ := c.push("doc:1", "phx_join", `{"$state":{"mode":"new"}}`); text(response) != test.want {
				t.Errorf("join: %s %s", status, text(response))
			}
		})
	}
}

// TestForbidden has a Config without Allow: clients read only.
func TestForbidden(t *testing.T) {
	t.Parallel()
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{})
	ops := []state.Op{{Key: "a", Value: []byte(`1`)}}
	if _, err := r.objects.Apply(t.Context(), "map:1", ops, state.Tx{}); err != nil {
		t.Fatal(err)
	}
	c := r.dial()
	play(t, c, "map:1",
		[2]string{`phx_join {"$state":{"ttl":5}}`,
			`ok {"$state":{"id":"E","items":[{"key":"a","rev":1,"value":1}],"kind":"map",` +
				mapLimits + `,"pos":"@1","recovered":false,"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@1"}`},
		[2]string{`put {"key":"a","value":1}`, `error {"reason":"forbidden"}`},
		[2]string{`merge {"key":"a","value":{}}`, `error {"reason":"forbidden"}`},
		[2]string{`del {"key":"a"}`, `error {"reason":"forbidden"}`},
		[2]string{`add {"value":1}`, `error {"reason":"forbidden"}`},
		[2]string{`batch {"ops":[{"op":"del","key":"a"}]}`, `error {"reason":"forbidden"}`},
		[2]string{`remove {}`, `error {"reason":"forbidden"}`},
		[2]string{`read {}`, `ok {"items":[{"key":"a","rev":1,"value":1}]}`},
	)
	play(t, c, "doc:none",
		[2]string{`phx_join {"$state":{"mode":"new"}}`, `error {"reason":"forbidden"}`},
		[2]string{`phx_join {"$state":{"value":1}}`, `ok {"$state":{"kind":"document",` + docLimits +
			`,"pos":"@0","recovered":false,"rev":0,"value":null,"why":"new"}}`},
	)
}

// TestRates has the limits of rates, whose replies say how long to wait.
func TestRates(t *testing.T) {
	t.Parallel()
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})),
		state.Config{Allow: allowAll, Limits: state.Limits{Rate: 0.5, ObjectRate: 1.1}})
	a, b := r.dial(), r.dial()
	a.join("map:1", `{}`)
	b.join("map:1", `{}`)
	a.ok("map:1", "put", `{"key":"a","value":1}`)
	wait := func(c *conn, event, payload string, least, most float64) {
		t.Helper()
		status, response, _ := c.push("map:1", event, payload)
		after, _ := response["after_ms"].(float64)
		if status != "error" || response["reason"] != "quota" || after < least || after > most {
			t.Errorf("%s %v", status, response)
		}
	}
	wait(a, "put", `{"key":"a","value":2}`, 1000, 2001)
	b.ok("map:1", "put", `{"key":"b","value":1}`)
	c := r.dial()
	c.join("map:1", `{}`)
	wait(c, "put", `{"key":"c","value":1}`, 1, 1001) // the object's rate
	for i := 0; ; i++ {                              // 40 at once, and more on a slow machine
		status, response, _ := a.push("map:1", "read", `{}`)
		if status == "ok" && i < 10_000 {
			continue
		}
		if after, _ := response["after_ms"].(float64); i < 40 || response["reason"] != "quota" || after < 1 || after > 51 {
			t.Errorf("read %d: %v", i, response)
		}
		break
	}
}

// TestOptions has callbacks of the program beside those of the package, and one that is taken.
func TestOptions(t *testing.T) {
	t.Parallel()
	count := func(s *state.Session, _ context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
		n, _ := s.Data.(int)
		s.Data = n + 1
		return push.OK(map[string]int{"n": n + 1}), nil
	}
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	options := []channel.Option[state.Session]{channel.On("count", count)}
	r := serve(t, objects, state.Config{Allow: allowAll, Options: options})
	c := r.dial()
	c.join("map:1", `{}`)
	play(t, c, "map:1", [2]string{`count {}`, `ok {"n":1}`}, [2]string{`count {}`, `ok {"n":2}`})
	for _, event := range []string{"put", "query", "snapshot"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s is not taken", event)
				}
			}()
			objects.Maps(state.Config{Options: []channel.Option[state.Session]{channel.On(event, count)}})
		}()
	}
}

// TestLifetimes has items and objects that expire.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	r := memory(t)
	c := r.dial()
	c.join("map:1", `{}`)
	c.ok("map:1", "put", `{"key":"a","value":1,"ttl":0.05}`)
	play(t, c, "map:1", [2]string{"<", `del {"$pos":"@2","key":"a","reason":"expired","rev":2}`})
	c.ok("map:1", "put", `{"key":"b","value":1,"ttl":60}`)
	d := r.dial()
	if st, _ := d.join("map:1", `{}`); plain(text(st["items"])) != `[{"expires_in":60,"key":"b","rev":3,"value":1}]` {
		t.Errorf("%s", text(st["items"]))
	}
	begin := time.Now()
	st, _ := d.join("doc:1", `{"mode":"new","ttl":0.5}`)
	if left, _ := st["expires_in"].(float64); left <= 0 || left > 0.5 || text(st["value"]) != `{}` {
		t.Errorf("%s", text(st))
	}
	play(t, d, "doc:1", [2]string{"<", `phx_close {"reason":"expired"}`})
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("it has expired after %v", took)
	}
	if st, _ = d.join("doc:1", `{"mode":"new"}`); st["rev"] != 1.0 {
		t.Errorf("made again: %s", text(st))
	}
}
