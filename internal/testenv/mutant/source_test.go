package mutant

import (
	"testing"

	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

const source = `// Package p is an example.
package p

import "errors"

const limit = 3

func first(n int) error {
	if n > limit {
		return errors.New("too many")
	}
	return nil
}

func second() int { return 2 }

func third() {}
`

func TestWithFaults(t *testing.T) {
	edits := []edit{{4, "n > limit", "n >= limit"}, {5, "return 2", "return 3"}, {7, "n > limit", "false"}}
	got, err := withFaults(source, edits)
	if err != nil {
		t.Fatal(err)
	}
	const want = `// Package p is an example.
package p

import osOfFaults "os"


import "errors"

const limit = 3

func first(n int) error {
switch selectedFault4 {
case "4":
{
	if n >= limit {
		return errors.New("too many")
	}
	return nil
}
case "7":
{
	if false {
		return errors.New("too many")
	}
	return nil
}
default:
{
	if n > limit {
		return errors.New("too many")
	}
	return nil
}
}
}

func second() int {
switch selectedFault4 {
case "5":
{ return 3 }
default:
{ return 2 }
}
}

func third() {}

var selectedFault4 = osOfFaults.Getenv("BENNU_FAULT")
`
	if got != want {
		t.Errorf("got:\n%s", got)
	}
}

func TestWithFaultsRefusesOtherChanges(t *testing.T) {
	for name, e := range map[string]edit{
		"a text that does not occur":    {1, "n > 5", "n > 6"},
		"a text that occurs twice":      {1, "errors", "fmt"},
		"a change outside of functions": {1, "limit = 3", "limit = 4"},
		"a change that is not valid Go": {1, "n > limit", "n >"},
		"another function":              {1, "func third() {}", "func third() {}\n\nfunc fourth() {}"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := withFaults(source, []edit{e}); err == nil || got != "" {
				t.Errorf("no error, got:\n%s", got)
			}
		})
	}
	if _, err := withFaults("package p\n", []edit{{1, "p", "q"}}); err == nil {
		t.Error("no error for a file without functions")
	}
}
