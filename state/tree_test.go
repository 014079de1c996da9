package state_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"bennu.example/channel"
	"bennu.example/state"
)

func TestTree(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a := r.dial()
	play(t, a, "tree:1",
		[2]string{`phx_join {}`, `ok {"$state":{"items":[],"kind":"tree",` + mapLimits +
			`,"pos":"@0","recovered":false,"why":"new"}}`},
		[2]string{"<", `synced {"$pos":"@0"}`},
		[2]string{`put {"key":"a/b","value":1}`,
			"ok {\"rev\":1}\nput {\"$pos\":\"@1\",\"key\":\"a/b\",\"rev\":1,\"value\":1}"},
		[2]string{`put {"key":"a","value":{"c":{"d":[1,{"x":2}],"e":null,"f":{}},"b":"two"}}`, "ok {\"rev\":4}\n" +
			`batch {"$pos":"@4","items":[{"del":"deleted","key":"a","rev":2,"under":true},` +
			`{"key":"a/b","rev":3,"value":"two"},{"key":"a/c/d","rev":4,"value":[1,{"x":2}]}]}`},
		// A leaf replaces what is below it, and is replaced by what is put below it.
		[2]string{`put {"key":"a/c","value":true}`, "ok {\"rev\":6}\n" +
			`batch {"$pos":"@6","items":[{"del":"deleted","key":"a/c","rev":5,"under":true},` +
			`{"key":"a/c","rev":6,"value":true}]}`},
		[2]string{`put {"key":"a/c/d/e","value":{"f":1}}`, "ok {\"rev\":8}\n" +
			`batch {"$pos":"@8","items":[{"del":"deleted","key":"a/c","rev":7},{"key":"a/c/d/e/f","rev":8,"value":1}]}`},
		[2]string{`merge {"key":"a","value":{"b":null,"c/d":{"g":1},"h":{"i":2}}}`, "ok {\"rev\":12}\n" +
			`batch {"$pos":"@12","items":[{"del":"deleted","key":"a/b","rev":9,"under":true},` +
			`{"del":"deleted","key":"a/c/d","rev":10,"under":true},{"key":"a/c/d/g","rev":11,"value":1},` +
			`{"key":"a/h/i","rev":12,"value":2}]}`},
		[2]string{`read {"keys":{"path":"a/c"}}`, `ok {"items":[{"key":"a/c/d/g","rev":11,"value":1}]}`},
		[2]string{`read {"keys":{"from":"a/c/e","to":"b"}}`, `ok {"items":[{"key":"a/h/i","rev":12,"value":2}]}`},
		[2]string{`read {"max":1}`,
			"ok {\"items\":[{\"key\":\"a/c/d/g\",\"rev\":11,\"value\":1}],\"next\":\"a\\u0001h\\u0001i\"}"},
		[2]string{`read {"max":1,"next":"a\u0001h\u0001i"}`, `ok {"items":[{"key":"a/h/i","rev":12,"value":2}]}`},
		// Server values.
		[2]string{`put {"key":"a/h","value":{"i":{"$inc":5},"j":{"$inc":1},"k":{"$key":true},"t":{"$now":true}}}`,
			"ok {\"rev\":17}\n" + `batch {"$pos":"@17","items":[{"del":"deleted","key":"a/h","rev":13,"under":true},` +
				`{"key":"a/h/i","rev":14,"value":7},{"key":"a/h/j","rev":15,"value":1},` +
				`{"key":"a/h/k","rev":16,"value":"a/h/k"},{"key":"a/h/t","rev":17,"value":NOW}]}`},
		[2]string{`put {"key":"a/h/i","value":{"$inc":1}}`,
			"ok {\"rev\":18}\nput {\"$pos\":\"@18\",\"key\":\"a/h/i\",\"rev\":18,\"value\":8}"},
		[2]string{`merge {"key":"a/h","value":{"i":{"$inc":1},"j":null}}`, "ok {\"rev\":20}\n" +
			`batch {"$pos":"@20","items":[{"key":"a/h/i","rev":19,"value":9},` +
			`{"del":"deleted","key":"a/h/j","rev":20,"under":true}]}`},
		// Conditions.
		[2]string{`put {"key":"a/h/i","value":1,"if":18}`, `error {"reason":"conflict","rev":19,"value":9}`},
		[2]string{`put {"key":"a/h/i","value":1,"if":19}`,
			"ok {\"rev\":21}\nput {\"$pos\":\"@21\",\"key\":\"a/h/i\",\"rev\":21,\"value\":1}"},
		[2]string{`put {"key":"a/h","value":1,"if":0}`, `error {"reason":"invalid","what":"if"}`},
		[2]string{`put {"key":"a/h","value":{"$inc":1}}`, `error {"reason":"invalid","what":"if"}`},
		[2]string{`del {"key":"a/h","if":0}`, `error {"reason":"invalid","what":"if"}`},
		[2]string{`put {"key":"z","value":{"y":1},"if":0}`,
			"ok {\"rev\":22}\nput {\"$pos\":\"@22\",\"key\":\"z/y\",\"rev\":22,\"value\":1}"},
		[2]string{`batch {"ops":[{"op":"del","key":"z"},{"op":"put","key":"a/h/i","value":1,"if":5}]}`,
			`error {"key":"a/h/i","reason":"conflict","rev":21,"value":1}`},
		// Additions.
		[2]string{`add {"path":"a/l","value":"x"}`,
			"ok {\"key\":\"a/l/KEY\",\"rev\":23}\nput {\"$pos\":\"@23\",\"key\":\"a/l/KEY\",\"rev\":23,\"value\":\"x\"}"},
		[2]string{`add {"value":{"x":1,"y":{"z":2}}}`, "ok {\"key\":\"KEY\",\"rev\":25}\n" +
			`batch {"$pos":"@25","items":[{"key":"KEY/x","rev":24,"value":1},{"key":"KEY/y/z","rev":25,"value":2}]}`},
		// Deletions.
		[2]string{`del {"key":"a/none"}`, `ok {"rev":0}`},
		[2]string{`put {"key":"z","value":{}}`,
			"ok {\"rev\":26}\ndel {\"$pos\":\"@26\",\"key\":\"z\",\"reason\":\"deleted\",\"rev\":26,\"under\":true}"},
		[2]string{
			`batch {"ops":[{"op":"put","key":"b","value":{"c":1}},{"op":"del","key":"a/h"},
				{"op":"add","path":"b2","value":[]}]}`,
			"ok {\"keys\":[\"b\",\"a/h\",\"b2/KEY\"],\"revs\":[27,28,29]}\n" +
				`batch {"$pos":"@29","items":[{"key":"b/c","rev":27,"value":1},` +
				`{"del":"deleted","key":"a/h","rev":28,"under":true},{"key":"b2/KEY","rev":29,"value":[]}]}`,
		},
		[2]string{`put {"key":"","value":{"only":1}}`, "ok {\"rev\":31}\n" +
			`batch {"$pos":"@31","items":[{"del":"deleted","key":"","rev":30,"under":true},` +
			`{"key":"only","rev":31,"value":1}]}`},
		[2]string{`del {"key":""}`,
			"ok {\"rev\":32}\ndel {\"$pos\":\"@32\",\"key\":\"\",\"reason\":\"deleted\",\"rev\":32,\"under\":true}"},
	)
	for _, push := range []string{
		`add {"path":"p","value":{"x":1,"y":2},"$id":"a"}`, `merge {"key":"p","value":{"q":1},"$id":"m"}`,
		`put {"key":"p/n","value":{"$inc":1},"if":0,"$id":"n"}`,
	} {
		event, payload, _ := strings.Cut(push, " ")
		first := a.ok("tree:1", event, payload)
		if again := a.ok("tree:1", event, payload); text(first) != text(again) {
			t.Errorf("%s: %v, repeated %v", push, first, again)
		}
	}
}

// TestTreePath has clients that joined a part of a tree.
func TestTreePath(t *testing.T) {
	t.Parallel()
	r := memory(t)
	w, c := r.dial(), r.dial()
	w.join("tree:1", `{}`)
	w.ok("tree:1", "put", `{"key":"","value":{"a":{"b":{"c":1,"d":2},"b-":3},"b":4}}`)
	st, _ := c.join("tree:1", `{"keys":{"path":"a/b"}}`)
	if got := plain(text(st["items"])); got != `[{"key":"a/b/c","rev":1,"value":1},{"key":"a/b/d","rev":2,"value":2}]` {
		t.Errorf("%s", got)
	}
	for _, push := range []string{
		`put {"key":"a/b-","value":1}`, `put {"key":"a/b/c","value":5}`, `del {"key":"b"}`, `put {"key":"a","value":{"b":6}}`,
		`del {"key":""}`, `put {"key":"a/b/d","value":7}`,
	} {
		event, payload, _ := strings.Cut(push, " ")
		w.ok("tree:1", event, payload)
	}
	play(t, c, "tree:1",
		[2]string{"<", `put {"$pos":"@6","key":"a/b/c","rev":6,"value":5}`},
		[2]string{"<", `batch {"$pos":"@9","items":[{"del":"deleted","key":"a","rev":8,"under":true},` +
			`{"key":"a/b","rev":9,"value":6}]}`},
		[2]string{"<", `del {"$pos":"@10","key":"","reason":"deleted","rev":10,"under":true}`},
		[2]string{"<", `put {"$pos":"@11","key":"a/b/d","rev":11,"value":7}`},
	)
	// A client that was away does not miss the deletion of a subtree that was made again.
	pos := text(st["pos"])
	w.ok("tree:1", "put", `{"key":"a","value":1}`)
	d := r.dial()
	st, events := d.join("tree:1", `{"keys":{"path":"a/b/c"},"since":`+pos+`}`)
	if st["recovered"] != true || len(events) != 2 || plain(events[0]) != `tree:1 items {"$pos":"@13","items":[`+
		`{"del":"deleted","key":"a","rev":8,"under":true},{"del":"deleted","key":"","rev":10,"under":true},`+
		`{"del":"deleted","key":"a","rev":12,"under":true}]}` {
		t.Errorf("%v %v", st, events)
	}
}

// TestTreeAccess has what Config.Allow is asked.
func TestTreeAccess(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	allow := func(_ context.Context, _ *channel.Channel, a state.Access) error {
		mu.Lock()
		defer mu.Unlock()
		if a.Action == state.Write {
			what := string(a.Op.Value)
			if a.Op.Delete {
				what = "deleted"
			}
			asked = append(asked, a.Op.Key+" "+what)
		}
		if strings.HasPrefix(a.Op.Key, "secret") {
			return state.ErrForbidden
		}
		return nil
	}
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{Allow: allow})
	c := r.dial()
	c.join("tree:1", `{}`)
	for _, test := range [][2]string{
		{`put {"key":"a/b","value":1}`, `[a/b 1]`},
		{`put {"key":"a","value":{"b":{"c":{"$key":true}},"n":{"$inc":1}}}`, `[a deleted a/b/c "a/b/c" a/n 1]`},
		{`merge {"key":"","value":{"a/x":1,"b":null}}`, `[a/x 1 b deleted]`},
		{`put {"key":"","value":{"secret":1}}`, `[ deleted secret 1] forbidden`},
		{`put {"key":"secret/a","value":{"$inc":1}}`, `[secret/a 1] forbidden`},
		{`del {"key":"secret"}`, `[secret deleted] forbidden`},
	} {
		asked = nil
		event, payload, _ := strings.Cut(test[0], " ")
		_, response, _ := c.push("tree:1", event, payload)
		mu.Lock()
		got := fmt.Sprint(asked)
		mu.Unlock()
		if reason, ok := response["reason"]; ok {
			got += " " + reason.(string)
		}
		if got != test[1] {
			t.Errorf("%s: asked %s, want %s", test[0], got, test[1])
		}
	}
}

// TestPathKey writes a tree from the server's own code.
func TestPathKey(t *testing.T) {
	t.Parallel()
	r := memory(t)
	key := state.PathKey("players/ann/score")
	for range 3 {
		_, err := state.Update(t.Context(), r.objects, "tree:1", key, func(n *int) error {
			*n++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c := r.dial()
	if st, _ := c.join("tree:1", `{}`); plain(text(st["items"])) != `[{"key":"players/ann/score","rev":3,"value":3}]` {
		t.Errorf("%v", st)
	}
}

// TestTreeViews has a query and Config.Visible, which are asked about paths, and a window.
func TestTreeViews(t *testing.T) {
	t.Parallel()
	scores := state.Query("scores", func(least int, path string, n int) bool {
		return strings.HasSuffix(path, "/score") && n >= least
	})
	visible := func(_ context.Context, _ *channel.Channel, it state.Item) bool { return it.Key != "players/eve/score" }
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})),
		state.Config{Allow: allowAll, Queries: []state.QueryDef{scores}, Visible: visible})
	w, c, d := r.dial(), r.dial(), r.dial()
	w.join("tree:1", `{}`)
	w.ok("tree:1", "put", `{"key":"players","value":{"ann":{"score":5,"lives":9},"bob":{"score":1},"eve":{"score":7}}}`)
	st, _ := c.join("tree:1", `{"query":{"name":"scores","args":3}}`)
	if got := plain(text(st["items"])); got != `[{"key":"players/ann/score","rev":2,"value":5}]` {
		t.Errorf("the query has %s", got)
	}
	st, _ = d.join("tree:1", `{"keys":{"path":"players/ann","first":1}}`)
	if got := plain(text(st["items"])); got != `[{"key":"players/ann/lives","rev":1,"value":9}]` {
		t.Errorf("the window has %s", got)
	}
	w.ok("tree:1", "put", `{"key":"players/bob","value":{"score":4}}`)
	w.ok("tree:1", "put", `{"key":"players/ann","value":{"score":8}}`)
	w.ok("tree:1", "del", `{"key":""}`)
	for _, test := range []struct {
		c    *conn
		want []string
	}{
		{c, []string{
			`put {"key":"players/bob/score","rev":6,"value":4}`,
			`batch {"items":[{"del":"deleted","key":"players/ann","rev":7,"under":true},` +
				`{"key":"players/ann/score","rev":8,"value":8}]}`,
			`del {"key":"","reason":"deleted","rev":9,"under":true}`,
		}},
		{d, []string{
			`del {"key":"players/ann","reason":"deleted","rev":7,"under":true}`,
			`put {"key":"players/ann/score","rev":8,"value":8}`, // read to fill the window
			`del {"key":"","reason":"deleted","rev":9,"under":true}`,
		}},
	} {
		for _, want := range test.want {
			if got := plain(test.c.next()); got != "tree:1 "+want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}

// TestSubtreeIsNotConflated has the events that a newer one of the same key replaces in the queue
// of a slow client. A put must not replace the deletion of what was below.
func TestSubtreeIsNotConflated(t *testing.T) {
	t.Parallel()
	for want, items := range map[bool][]state.Item{
		true:  {{Key: "a", Rev: 1, Value: []byte(`1`)}, {Key: "a", Rev: 2, Deleted: state.ReasonDeleted}},
		false: {{Key: "a", Rev: 3, Deleted: state.ReasonDeleted, Under: true}},
	} {
		for _, it := range items {
			if state.IsConflated(it) != want {
				t.Errorf("%+v is conflated: %v", it, !want)
			}
		}
	}
}
