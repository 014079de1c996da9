package state

import (
	"math/rand/v2"
	"strings"
)

// The keys of a list are in the order of its items. A key is an integer and a fraction in base 62.
// The first byte of the integer gives its sign and its number of digits: "a" to "z" are 1 to 26
// digits, and "Z" to "A" are 1 to 26 digits of a negative number. So keys sort as bytes, and there
// is always one before, after and between others.

const (
	listDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	firstInt   = "a0"
	maxListKey = 200 // bytes; about 1,000 insertions at one place
	maxIntLen  = 27  // bytes of an integer
)

// listKey returns a new key between two keys, or invalid if they are not keys of a list in their
// order. Empty means that there is none. The last three digits are random, so that two writers at
// one place make different keys.
func listKey(lower, upper string) (string, error) {
	stem, err := listStem(lower, upper)
	if err != nil {
		return "", err
	}
	key := stem + randomDigits()
	if len(key) > maxListKey {
		return "", &LimitError{Err: ErrQuota, What: "list key", Max: maxListKey}
	}
	return key, nil
}

func randomDigits() string {
	n := rand.IntN(62 * 62 * 61)
	// The last one is not 0, so that there is a key between this one and what it begins with.
	return string([]byte{listDigits[n/61/62], listDigits[n/61%62], listDigits[1+n%61]})
}

// listStem returns what a new key begins with. Whatever follows, the key is between the two others.
func listStem(lower, upper string) (string, error) {
	lowerInt, lowerFraction, ok := cutInt(lower)
	if lower != "" && !ok {
		return "", invalid("list key")
	}
	upperInt, upperFraction, ok := cutInt(upper)
	if upper != "" && !ok {
		return "", invalid("list key")
	}
	switch {
	case lower == "" && upper == "":
		return firstInt, nil
	case lower == "":
		return addInt(upperInt, -1)
	case upper == "":
		return addInt(lowerInt, 1)
	case lowerInt == upperInt:
		fraction, ok := between(lowerFraction, upperFraction, true)
		if !ok {
			return "", invalid("list key")
		}
		return lowerInt + fraction, nil
	case lowerInt > upperInt:
		return "", invalid("list key")
	}
	if next, err := addInt(lowerInt, 1); err == nil && next < upperInt {
		return next, nil
	}
	fraction, _ := between(lowerFraction, "", false)
	return lowerInt + fraction, nil
}

// between returns a fraction between two others that is not the beginning of the upper one, or
// false if there is none. Without bounded, there is no upper one.
func between(lower, upper string, bounded bool) (string, bool) {
	var out []byte
	for i := 0; ; i++ {
		a, b := 0, len(listDigits)
		if i < len(lower) {
			a = strings.IndexByte(listDigits, lower[i])
		}
		if bounded {
			if i >= len(upper) { // the upper one is not greater
				return "", false
			}
			b = strings.IndexByte(listDigits, upper[i])
		}
		switch {
		case a > b:
			return "", false
		case b-a > 1:
			return string(append(out, listDigits[(a+b)/2])), true
		case b-a == 1: // what follows is less than the upper one
			bounded = false
		}
		out = append(out, listDigits[a])
	}
}

// cutInt divides a key into its integer and its fraction. It reports false for what is not a key.
func cutInt(key string) (integer, fraction string, ok bool) {
	if key == "" || len(key) > maxKey {
		return "", "", false
	}
	n := 0
	switch b := key[0]; {
	case 'a' <= b && b <= 'z':
		n = int(b-'a') + 1
	case 'A' <= b && b <= 'Z':
		n = int('Z'-b) + 1
	}
	if n == 0 || len(key) <= n {
		return "", "", false
	}
	for i := 1; i < len(key); i++ {
		if strings.IndexByte(listDigits, key[i]) < 0 {
			return "", "", false
		}
	}
	return key[:1+n], key[1+n:], true
}

// addInt adds 1 or -1 to an integer.
func addInt(integer string, by int) (string, error) {
	text := []byte(integer)
	for i := len(text) - 1; i > 0; i-- {
		d := strings.IndexByte(listDigits, text[i]) + by
		if 0 <= d && d < len(listDigits) {
			text[i] = listDigits[d]
			return string(text), nil
		}
		text[i] = listDigits[(d+len(listDigits))%len(listDigits)]
	}
	// All digits have overflowed: they are all 0 or all z by now.
	isNegative := text[0] <= 'Z'
	switch {
	case text[0] == 'Z' && by > 0:
		return firstInt, nil
	case text[0] == 'a' && by < 0:
		return "Zz", nil
	case isNegative == (by < 0): // away from zero
		if len(text) == maxIntLen {
			return "", &LimitError{Err: ErrQuota, What: "list key", Max: maxListKey}
		}
		text = append(text, text[1])
	default:
		text = text[:len(text)-1]
	}
	text[0] += byte(by) // the bytes of negative numbers and of others both grow with the number
	return string(text), nil
}
