package state_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"bennu.example/state"
)

// listKeys replaces the keys of a list by the names of their items, whose values are strings.
type listKeys map[string]string

func (k listKeys) plain(s string) string {
	for name, key := range k {
		s = strings.ReplaceAll(s, `"`+key+`"`, `"<`+name+`>"`)
	}
	return s
}

// playList is play for a list: "<x>" in a payload is the key of the item x. An insertion of x and
// a move of x give it its key.
func playList(t *testing.T, c *conn, k listKeys, topic string, steps ...[2]string) {
	t.Helper()
	for _, s := range steps {
		event, payload, _ := strings.Cut(s[0], " ")
		for name, key := range k {
			payload = strings.ReplaceAll(payload, `"<`+name+`>"`, `"`+key+`"`)
		}
		status, response, before := c.push(topic, event, payload)
		if status == "ok" {
			k.learn(t, event, payload, response)
		}
		got := k.plain(plain(status + " " + text(response)))
		for _, m := range before {
			got += "\n" + k.plain(plain(m))
		}
		if want := strings.ReplaceAll(s[1], "\n", "\n"+topic+" "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", s[0], got, want)
		}
	}
}

// learn learns the keys of a reply. The key before a move is the item's name and "'".
func (k listKeys) learn(t *testing.T, event, payload string, response map[string]any) {
	t.Helper()
	type pushed struct {
		Op, Key string
		Value   any
		Ops     []pushed
	}
	var p pushed
	if err := json.Unmarshal([]byte(payload), &p); err != nil {
		t.Fatal(err)
	}
	keys, _ := response["keys"].([]any)
	if p.Op = event; p.Ops == nil {
		p.Ops, keys = []pushed{p}, []any{response["key"]}
	}
	for i, op := range p.Ops {
		switch key, _ := keys[i].(string); op.Op {
		case "insert":
			if name, ok := op.Value.(string); ok {
				k[name] = key
			}
		case "move":
			for name, before := range maps.Clone(k) {
				if before == op.Key {
					k[name], k[name+"'"] = key, before
				}
			}
		}
	}
}

// order returns the values of a list in order.
func order(t *testing.T, r *rig, topic string) string {
	t.Helper()
	c := r.dial()
	c.t = t
	c.ok(topic, "phx_join", `{}`)
	var values []string
	next := ""
	for {
		response := c.ok(topic, "read", `{`+next+`}`)
		for _, it := range response["items"].([]any) {
			values = append(values, fmt.Sprint(it.(map[string]any)["value"]))
		}
		if response["next"] == nil {
			return strings.Join(values, " ")
		}
		next = `"next":` + text(response["next"])
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a := r.dial()
	play(t, a, "list:1",
		[2]string{`phx_join {}`, `ok {"$state":{"items":[],"kind":"list",` + mapLimits +
			`,"pos":"@0","recovered":false,"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@0"}`},
	)
	k := listKeys{}
	playList(t, a, k, "list:1",
		[2]string{`insert {"value":"b"}`,
			"ok {\"key\":\"<b>\",\"rev\":1}\nput {\"$pos\":\"@1\",\"key\":\"<b>\",\"rev\":1,\"value\":\"b\"}"},
		[2]string{`insert {"value":"d","ttl":60}`,
			"ok {\"key\":\"<d>\",\"rev\":2}\nput {\"$pos\":\"@2\",\"key\":\"<d>\",\"rev\":2,\"value\":\"d\"}"},
		[2]string{`insert {"value":"a","after":null}`,
			"ok {\"key\":\"<a>\",\"rev\":3}\nput {\"$pos\":\"@3\",\"key\":\"<a>\",\"rev\":3,\"value\":\"a\"}"},
		[2]string{`insert {"value":"c","after":"<b>"}`,
			"ok {\"key\":\"<c>\",\"rev\":4}\nput {\"$pos\":\"@4\",\"key\":\"<c>\",\"rev\":4,\"value\":\"c\"}"},
		[2]string{`put {"key":"<c>","value":"C"}`,
			"ok {\"rev\":5}\nput {\"$pos\":\"@5\",\"key\":\"<c>\",\"rev\":5,\"value\":\"C\"}"},
		[2]string{`put {"key":"<c>","value":"c","if":4}`, `error {"reason":"conflict","rev":5,"value":"C"}`},
		[2]string{`move {"key":"<a>","after":"<c>"}`, "ok {\"key\":\"<a>\",\"rev\":7}\n" +
			`batch {"$pos":"@7","items":[{"del":"deleted","key":"<a'>","rev":6},` +
			`{"from":"<a'>","key":"<a>","rev":7,"value":"a"}]}`},
		[2]string{`move {"key":"<a'>","after":null}`, `error {"reason":"not found"}`},
		[2]string{`insert {"value":"x","after":"<a'>"}`, `error {"reason":"not found"}`},
		[2]string{`put {"key":"<a'>","value":1}`, `error {"reason":"not found"}`},
		[2]string{`del {"key":"<b>"}`,
			"ok {\"rev\":8}\ndel {\"$pos\":\"@8\",\"key\":\"<b>\",\"reason\":\"deleted\",\"rev\":8}"},
		[2]string{`del {"key":"<b>"}`, `ok {"rev":8}`},
	)
	if got := order(t, r, "list:1"); got != "C a d" {
		t.Errorf("the order is %s", got)
	}
	playList(t, a, k, "list:1",
		[2]string{
			`batch {"ops":[{"op":"insert","value":"e"},{"op":"insert","value":"f"},{"op":"move","key":"<d>","after":null},
				{"op":"insert","value":"g","after":null},{"op":"insert","value":"h","after":"<a>"},{"op":"del","key":"<c>"},
				{"op":"insert","value":"i","after":"<a>"}]}`,
			"ok {\"keys\":[\"<e>\",\"<f>\",\"<d>\",\"<g>\",\"<h>\",\"<c>\",\"<i>\"],\"revs\":[9,10,12,13,14,15,16]}\n" +
				`batch {"$pos":"@16","items":[{"key":"<e>","rev":9,"value":"e"},{"key":"<f>","rev":10,"value":"f"},` +
				`{"del":"deleted","key":"<d'>","rev":11},{"from":"<d'>","key":"<d>","rev":12,"value":"d"},` +
				`{"key":"<g>","rev":13,"value":"g"},{"key":"<h>","rev":14,"value":"h"},` +
				`{"del":"deleted","key":"<c>","rev":15},{"key":"<i>","rev":16,"value":"i"}]}`,
		},
		[2]string{`batch {"ops":[{"op":"insert","value":1},{"op":"del","key":"<e>"},
			{"op":"insert","value":1,"after":"<e>"}]}`,
			`error {"reason":"not found"}`},
	)
	if got := order(t, r, "list:1"); got != "g d a i h e f" {
		t.Errorf("the order is %s", got)
	}
	for _, push := range []string{
		`insert {"value":{"$key":true},"$id":"i"}`, `move {"key":"<d>","after":null,"$id":"m"}`,
		`batch {"ops":[{"op":"move","key":"<a>"},{"op":"insert","value":1,"after":"<h>"}],"$id":"b"}`,
	} {
		event, payload, _ := strings.Cut(push, " ")
		for name, key := range k {
			payload = strings.ReplaceAll(payload, `"<`+name+`>"`, `"`+key+`"`)
		}
		first := a.ok("list:1", event, payload)
		if event == "batch" { // the item behind which one was inserted is gone
			a.ok("list:1", "del", `{"key":"`+k["h"]+`"}`)
		}
		if again := a.ok("list:1", event, payload); text(first) != text(again) {
			t.Errorf("%s: %v, repeated %v", push, first, again)
		}
		if event == "insert" && !strings.Contains(order(t, r, "list:1"), first["key"].(string)) {
			t.Errorf("$key is not %v in %s", first["key"], order(t, r, "list:1"))
		}
	}
	status, response, _ := a.push("list:1", "insert", `{"value":1,"$id":"b"}`)
	if status != "error" || text(response) != `{"reason":"invalid","what":"$id"}` {
		t.Errorf("another write with a known id: %s %v", status, response)
	}
}

// TestListBatchKeepsOrder inserts many items with one batch, at the end, at the beginning and
// behind an item. Two items may be in order by chance, since keys end with random digits.
func TestListBatchKeepsOrder(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a := r.dial()
	a.join("list:1", `{}`)
	first := a.ok("list:1", "insert", `{"value":"first"}`)["key"]
	const n = 12
	ops := []string{}
	for _, after := range []string{``, `,"after":null`, fmt.Sprintf(`,"after":%q`, first)} {
		for i := range n {
			ops = append(ops, fmt.Sprintf(`{"op":"insert","value":%d%s}`, len(ops)/n*100+i, after))
		}
	}
	a.ok("list:1", "batch", `{"ops":[`+strings.Join(ops, ",")+`]}`)
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(100+n-1-i))
	}
	want = append(want, "first")
	for i := range n {
		want = append(want, fmt.Sprint(200+n-1-i))
	}
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	if got := order(t, r, "list:1"); got != strings.Join(want, " ") {
		t.Errorf("the order is\n%s\nwant\n%s", got, strings.Join(want, " "))
	}
}

// TestListWindow has the first and the last items of a list, into which and out of which items are
// inserted, moved and deleted.
func TestListWindow(t *testing.T) {
	t.Parallel()
	r := memory(t)
	w, first, last := r.dial(), r.dial(), r.dial()
	w.join("list:1", `{}`)
	k := listKeys{}
	push := func(pushes ...string) {
		t.Helper()
		for _, s := range pushes {
			event, payload, _ := strings.Cut(s, " ")
			for name, key := range k {
				payload = strings.ReplaceAll(payload, `"<`+name+`>"`, `"`+key+`"`)
			}
			k.learn(t, event, payload, w.ok("list:1", event, payload))
		}
	}
	expect := func(c *conn, events ...string) {
		t.Helper()
		for _, want := range events {
			if got := k.plain(plain(c.next())); got != "list:1 "+want {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
		}
	}
	push(`insert {"value":"a"}`, `insert {"value":"b"}`, `insert {"value":"c"}`)
	first.join("list:1", `{"keys":{"first":2}}`)
	last.join("list:1", `{"keys":{"last":2}}`)

	push(`insert {"value":"z","after":null}`) // z a | b c
	expect(first, `put {"key":"<z>","rev":4,"value":"z"}`, `del {"key":"<b>","reason":"window","rev":2}`)
	push(`move {"key":"<a>","after":"<c>"}`) // z b | c a
	expect(first, `del {"key":"<a'>","reason":"deleted","rev":5}`, `put {"key":"<b>","rev":2,"value":"b"}`)
	expect(last, `batch {"items":[{"from":"<a'>","key":"<a>","rev":6,"value":"a"},`+
		`{"del":"window","key":"<b>","rev":2}]}`)
	push(`move {"key":"<c>","after":null}`) // c z | b a
	expect(first, `batch {"items":[{"from":"<c'>","key":"<c>","rev":8,"value":"c"},`+
		`{"del":"window","key":"<b>","rev":2}]}`)
	expect(last, `del {"key":"<c'>","reason":"deleted","rev":7}`, `put {"key":"<b>","rev":2,"value":"b"}`)
	push(`batch {"ops":[{"op":"insert","value":"x"},{"op":"insert","value":"y"},{"op":"del","key":"<z>"}]}`) // c b | x y
	expect(first, `del {"key":"<z>","reason":"deleted","rev":11}`, `put {"key":"<b>","rev":2,"value":"b"}`)
	expect(last, `batch {"items":[{"key":"<x>","rev":9,"value":"x"},{"del":"window","key":"<b>","rev":2},`+
		`{"key":"<y>","rev":10,"value":"y"},{"del":"window","key":"<a>","rev":6}]}`)
}

// TestListRaced inserts and moves from several clients at once.
func TestListRaced(t *testing.T) {
	t.Parallel()
	r := memory(t)
	const clients, each = 4, 40
	var wg sync.WaitGroup
	for n := range clients {
		c := r.dial()
		wg.Go(func() {
			c.join("list:1", `{}`)
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			var mine []string
			for i := range each {
				payload := fmt.Sprintf(`{"value":"%d-%d"}`, n, i)
				if i%3 == 0 {
					payload = fmt.Sprintf(`{"value":"%d-%d","after":null}`, n, i)
				}
				mine = append(mine, c.ok("list:1", "insert", payload)["key"].(string))
				if j := rng.IntN(len(mine)); i%2 == 0 {
					after := mine[rng.IntN(len(mine))]
					mine[j] = c.ok("list:1", "move", fmt.Sprintf(`{"key":%q,"after":%q}`, mine[j], after))["key"].(string)
				}
			}
		})
	}
	wg.Wait()
	values := strings.Fields(order(t, r, "list:1"))
	slices.Sort(values)
	if values = slices.Compact(values); len(values) != clients*each {
		t.Errorf("%d items, want %d", len(values), clients*each)
	}
}

// TestRebalance inserts at one place until the keys are too long. After Rebalance the order is the
// same, and more can be inserted.
func TestRebalance(t *testing.T) {
	t.Parallel()
	r := memory(t)
	c := r.dial()
	if err := r.objects.Rebalance(t.Context(), "list:1"); err != nil {
		t.Errorf("an object that does not exist: %v", err)
	}
	c.join("list:1", `{}`)
	first := c.ok("list:1", "insert", `{"value":"first"}`)["key"]
	c.ok("list:1", "insert", `{"value":"last"}`)
	n := 0
	for ; n < 5000; n++ {
		status, response, _ := c.push("list:1", "insert", fmt.Sprintf(`{"value":%d,"after":%q}`, n, first))
		if status == "error" {
			if text(response) != `{"max":200,"reason":"quota"}` {
				t.Errorf("%v", response)
			}
			break
		}
	}
	if n < 700 || n > 2000 {
		t.Errorf("%d insertions at one place", n)
	}
	before := order(t, r, "list:1")
	d := r.dial()
	d.join("list:1", `{}`)
	done := make(chan error, 1)
	go func() { done <- r.objects.Rebalance(t.Context(), "list:1") }()
	added := 0
	for running := true; running; added++ { // meanwhile another client writes
		select {
		case err := <-done:
			if running = false; err != nil {
				t.Fatal(err)
			}
		default:
		}
		event := []string{`insert {"value":"end"}`, `insert {"value":"begin","after":null}`}[added%2]
		name, payload, _ := strings.Cut(event, " ")
		d.ok("list:1", name, payload)
	}
	var old []string
	values := strings.Fields(order(t, r, "list:1"))
	for _, v := range values {
		if v != "end" && v != "begin" { // their places are not certain
			old = append(old, v)
		}
	}
	if len(values) != len(old)+added || strings.Join(old, " ") != before {
		t.Errorf("the order was\n%s\nand is\n%s", before, values)
	}
	for _, it := range c.ok("list:1", "read", `{}`)["items"].([]any) {
		if key := it.(map[string]any)["key"].(string); len(key) > 12 {
			t.Errorf("the key %s is long", key)
		}
	}
	if err := r.objects.Rebalance(t.Context(), "map:1"); err != nil {
		t.Error(err)
	}
	ops := []state.Op{{Key: "no list", Value: []byte(`1`)}}
	if _, err := r.objects.Apply(t.Context(), "map:1", ops, state.Tx{}); err != nil {
		t.Fatal(err)
	}
	if err := r.objects.Rebalance(t.Context(), "map:1"); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("a map: %v", err)
	}
}
