// Package guide reads the code of the guides, so that tests run what stands there.
package guide

import (
	"os"
	"regexp"
	"testing"
)

// Blocks returns the code blocks of a guide in one language. The test fails if there is none.
func Blocks(t testing.TB, file, lang string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile("(?s)```"+lang+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("%s has no block in %s", file, lang)
	}
	return all
}
