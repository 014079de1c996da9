package mutant

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
)

// edit is a change of a file, with its number.
type edit struct {
	number   int
	old, new string
}

// body is where the body of a function is in its file, with the braces.
type body struct{ start, end int }

// withFaults returns a source in which each function that an edit changes has a switch, with its
// body after each of these edits, and as it was. The variable of the environment is read once.
func withFaults(source string, edits []edit) (string, error) {
	bodies, pkg, err := parse(source)
	if err != nil {
		return "", err
	}
	cases := make([]string, len(bodies)) // those of each function
	for _, e := range edits {
		if n := strings.Count(source, e.old); n != 1 {
			return "", fmt.Errorf("the text occurs %d times, want 1: %q", n, e.old)
		}
		mutated := strings.Replace(source, e.old, e.new, 1)
		changed, _, err := parse(mutated)
		if err != nil {
			return "", fmt.Errorf("%w, after the change of %q", err, e.old)
		}
		if outside(source, bodies) != outside(mutated, changed) {
			return "", fmt.Errorf("the change is not in a function: %q", e.old)
		}
		for i, b := range changed {
			if text := mutated[b.start:b.end]; text != source[bodies[i].start:bodies[i].end] {
				cases[i] += fmt.Sprintf("\ncase %q:\n%s", strconv.Itoa(e.number), text)
			}
		}
	}
	// The number is for the case that other files of the package have faults as well.
	selected := fmt.Sprint("selectedFault", edits[0].number)
	var out strings.Builder
	out.WriteString(source[:pkg])
	out.WriteString("\n\nimport osOfFaults \"os\"\n")
	at := pkg
	for i, b := range bodies {
		if cases[i] == "" {
			continue
		}
		out.WriteString(source[at:b.start])
		fmt.Fprintf(&out, "{\nswitch %s {%s\ndefault:\n%s\n}\n}", selected, cases[i], source[b.start:b.end])
		at = b.end
	}
	out.WriteString(source[at:])
	fmt.Fprintf(&out, "\nvar %s = osOfFaults.Getenv(%q)\n", selected, variable)
	return out.String(), nil
}

// parse returns the bodies of the functions in a source, and where its package clause ends.
func parse(source string) (bodies []body, pkg int, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	if err != nil {
		return nil, 0, err
	}
	offset := func(p token.Pos) int { return set.Position(p).Offset }
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
			bodies = append(bodies, body{offset(f.Body.Pos()), offset(f.Body.End())})
		}
	}
	if len(bodies) == 0 {
		return nil, 0, errors.New("the file has no functions")
	}
	return bodies, offset(file.Name.End()), nil
}

// outside returns a source without the bodies of its functions.
func outside(source string, bodies []body) string {
	var out strings.Builder
	at := 0
	for _, b := range bodies {
		out.WriteString(source[at:b.start])
		at = b.end
	}
	out.WriteString(source[at:])
	return out.String()
}
