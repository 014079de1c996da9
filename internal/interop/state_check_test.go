package interop_test

import (
	"fmt"
	"strings"
)

// checkItems checks that each write to the map was applied once.
func (f *sharers) checkItems(items map[string]any, clients, updates int) {
	added := map[string]int{} // how often each value was added
	for _, v := range items {
		if v, ok := v.(map[string]any); ok && v["added"] != nil {
			added[fmt.Sprint(v["client"], v["added"])]++
		}
	}
	sum, _ := items["sum"].(map[string]any)
	for _, kind := range []string{"js", "go"} {
		for i := range clients {
			name := fmt.Sprintf("%s%d", kind, i)
			unsure := f.unsure(name, boardTopic)
			for n := range updates {
				if got := items[fmt.Sprintf("%s/%d", name, n)]; got != float64(n) && (got != nil || unsure == 0) {
					f.t.Errorf("item %d of %s is missing", n, name)
				}
				if got := added[fmt.Sprint(name, n)]; n%5 == 0 && got != 1 && (got > 1 || unsure == 0) {
					f.t.Errorf("%d of %s was added %d times", n, name, got)
				}
			}
			if got, _ := sum[name].(float64); got > float64(updates) || got < float64(updates-unsure) {
				f.t.Errorf("the sum of %s is %v, want %d; %d writes are uncertain", name, got, updates, unsure)
			}
		}
	}
}

// checkRows checks that each write to the list and the tree was applied once.
func (f *sharers) checkRows(list, tree map[string]any, clients, updates int) {
	inserted := map[any]int{}
	for _, v := range list {
		inserted[v]++
	}
	logged := map[string]int{}
	for path, v := range tree {
		if name, rest, _ := strings.Cut(path, "/"); strings.HasPrefix(rest, "log/") {
			logged[fmt.Sprint(name, v)]++
		}
	}
	for _, kind := range []string{"js", "go"} {
		for i := range clients {
			name := fmt.Sprintf("%s%d", kind, i)
			unsureList, unsure := f.unsure(name, listTopic), f.unsure(name, treeTopic)
			for n := range updates {
				want := 1
				if n%4 == 1 {
					want = 0
				}
				got := inserted[fmt.Sprintf("%s/%d", name, n)]
				if got != want && (got > 1 || unsureList == 0) {
					f.t.Errorf("item %d of %s is there %d times, want %d", n, name, got, want)
				}
				if got := logged[fmt.Sprint(name, n)]; n%5 == 0 && got != 1 && (got > 1 || unsure == 0) {
					f.t.Errorf("%d was logged %d times by %s", n, got, name)
				}
			}
			if n, _ := tree[name+"/n"].(float64); n > float64(updates) || n < float64(updates-unsure) {
				f.t.Errorf("%s has counted %v in the tree, want %d; %d writes are uncertain", name, n, updates, unsure)
			}
			if last := tree[name+"/a/last"]; last != float64(updates-1) && unsure == 0 {
				f.t.Errorf("the last value of %s in the tree is %v, want %d", name, last, updates-1)
			}
		}
	}
}
