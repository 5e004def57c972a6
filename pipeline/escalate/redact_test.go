package escalate

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/tokenize"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
)

func newRedactor(t testing.TB, kinds ...string) *Redactor {
	t.Helper()
	r, err := NewRedactor(kinds)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// spanOf is the first place of part in text, in characters.
func spanOf(t testing.TB, group, text, part string) Span {
	t.Helper()
	at := strings.Index(text, part)
	if at < 0 {
		t.Fatalf("no %q in %q", part, text)
	}
	start := tokenize.NewRunes([]byte(text)).Offset(at)
	return Span{group, start, start + utf8.RuneCountInString(part)}
}

// lossless puts back every value.
func lossless(b *Restorer, s string) string {
	return b.replace(s, func(string, string) bool { return true })
}

func ExampleRedactor() {
	r, _ := NewRedactor([]string{"PER", "email", "phone", "number"})
	text := "Ada Lovelace (ada@example.com, +44 20 7946 0958) paid with 4111 1111 1111 1111. Thanks, Ada Lovelace"
	redacted, back := r.Redact(text, []Span{{"PER", 0, 12}})
	fmt.Println(redacted)
	fmt.Println(back.Restore("[PER_1] is happy, [PER_2] is nobody"))
	// Output:
	// [PER_1] ([EMAIL_1], [PHONE_1]) paid with [NUMBER_1]. Thanks, [PER_1]
	// Ada Lovelace is happy, [PER_2] is nobody
}

func TestNumbersAndAddressesThatAreReplaced(t *testing.T) {
	r := newRedactor(t, "email", "phone", "number")
	for _, c := range []struct{ text, want string }{
		{"mail ada.lovelace+x@mail.example.co.uk.", "mail [EMAIL_1]."},
		{"write to ada@localhost, or <bob@example.com>;", "write to [EMAIL_1], or <[EMAIL_2]>;"},
		{"ada (at) example (dot) com", "[EMAIL_1]"},
		{"ada @ example.com", "[EMAIL_1]"},
		{`"ada lovelace"@example.com`, "[EMAIL_1]"},
		{"ada@[192.0.2.1]", "[EMAIL_1]"},
		{"josé@exämple.de и почта@пример.рф", "[EMAIL_1] и [EMAIL_2]"},
		{"ada\u200b@exam\u00adple.com", "[EMAIL_1]"},
		{"\uff41\uff44\uff41\uff20example\uff0ecom", "[EMAIL_1]"},
		{"ADA@EXAMPLE.COM wrote", "[EMAIL_1] wrote"},

		{"call +49 (0) 30 / 1234-5678 now", "call [PHONE_1] now"},
		{"call +4930123456, 0049 30 123456", "call [PHONE_1], [PHONE_2]"},
		{"(030) 1234567 or 030/1234567", "[PHONE_1] or [PHONE_2]"},
		{"(415) 555-0123 x", "[PHONE_1] x"},
		{"415-555-0123, 415.555.0124, 4155550125, 1-415-555-0126", "[PHONE_1], [PHONE_2], [PHONE_3], [PHONE_4]"},
		{"06 12 34 56 78 et 06.12.34.56.79", "[PHONE_1] et [PHONE_2]"},
		{"090-1234-5678です", "[PHONE_1]です"},
		{"手机13812345678,谢谢", "手机[PHONE_1],谢谢"},
		{"138 1234 5678", "[PHONE_1]"},
		{"98765 43210", "[PHONE_1]"},
		{"\u0660\u0661\u0662 \u0663\u0664\u0665 \u0666\u0667\u0668\u0669", "[PHONE_1]"},
		{"\uff0b\uff14\uff19 \uff13\uff10 \uff11\uff12\uff13\uff14\uff15\uff16", "[PHONE_1]"},
		{"+4\u200b9\u200b30\u200d1234\u206056", "[PHONE_1]"},
		{"+49\u201130\u2013123456", "[PHONE_1]"},

		{"card 4111 1111 1111 1111.", "card [NUMBER_1]."},
		{"card 4111-1111-1111-1111, 4111111111111112", "card [NUMBER_1], [NUMBER_2]"},
		{"4111,1111,1111,1111 4111_1111_1111_1112", "[NUMBER_1]"},
		{"\U0001d7d2\U0001d7cf\U0001d7cf\U0001d7cf \U0001d7cf\U0001d7cf\U0001d7cf\U0001d7cf 1111 1111", "[NUMBER_1]"},
		{"\u2460\u2461\u2462\u2463\u2464\u2465\u2466\u2467", "[NUMBER_1]"},
		{"\u0967\u0968\u0969\u096a\u096b\u096c\u096d\u096e", "[NUMBER_1]"},
		{"1\u03362\u03363\u03364\u03365\u03366\u03367\u03368\u0336!", "[NUMBER_1]!"},
		{"4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "[NUMBER_1]"},
		{"SSN 123-45-6789", "SSN [PHONE_1]"}, // the shape alone does not tell
		{"account 12345678", "account [NUMBER_1]"},
		{"SIN 123 456 782", "SIN [PHONE_1]"},
		{"IBAN DE89 3704 0044 0532 0130 00 bitte", "IBAN [NUMBER_1] bitte"},
		{"GB29NWBK60161331926819 and gb29 nwbk 6016 1331 9268 19", "[NUMBER_1] and [NUMBER_2]"},
		{"a\r\n4111111111111111\r\nb", "a\r\n[NUMBER_1]\r\nb"},

		{"3 stars, 10 of 12, 99.99 EUR, 1,250.00, 1.250.000,50 and 100%", "3 stars, 10 of 12, 99.99 EUR, 1,250.00, " +
			"1.250.000,50 and 100%"},
		{"on 2026-11-24T17:16:59, 24.11.2026 10:30, 11/24/2026", "on 2026-11-24T17:16:59, 24.11.2026 10:30, " +
			"11/24/2026"},
		{"in 2019, 2020 and 2021 2022", "in 2019, 2020 and 2021 2022"},
		{"room 1408, bus 42, 7 days, 1 2 3", "room 1408, bus 42, 7 days, 1 2 3"},
		{"@ada and #12345, a@b", "@ada and #12345, a@b"},
	} {
		got, back := r.Redact(c.text, nil)
		if got != c.want {
			t.Errorf("%q became %q, want %q", c.text, got, c.want)
		}
		if again := lossless(back, got); again != c.text {
			t.Errorf("%q came back as %q", c.text, again)
		}
	}
}

func TestEachKindAlone(t *testing.T) {
	text := "Ada in Paris, ada@example.com, +44 20 7946 0958, 4111 1111 1111 1111"
	spans := []Span{spanOf(t, "PER", text, "Ada"), spanOf(t, "LOC", text, "Paris")}
	for kinds, want := range map[string]string{
		"":       text,
		"PER":    "[PER_1] in Paris, ada@example.com, +44 20 7946 0958, 4111 1111 1111 1111",
		"LOC":    "Ada in [LOC_1], ada@example.com, +44 20 7946 0958, 4111 1111 1111 1111",
		"email":  "Ada in Paris, [EMAIL_1], +44 20 7946 0958, 4111 1111 1111 1111",
		"phone":  "Ada in Paris, ada@example.com, [PHONE_1], 4111 1111 1111 1111",
		"number": "Ada in Paris, ada@example.com, [NUMBER_1], [NUMBER_2]",
	} {
		r := newRedactor(t, strings.Fields(kinds)...)
		if got, _ := r.Redact(text, spans); got != want {
			t.Errorf("%q: %q, want %q", kinds, got, want)
		}
	}
	if d := cmp.Diff([]string{"PER", "LOC"}, newRedactor(t, "PER", "email", "LOC", "number").Groups()); d != "" {
		t.Error(d)
	}
}

func TestEntitiesThatAreReplaced(t *testing.T) {
	r := newRedactor(t, "PER", "LOC", "email")
	for _, c := range []struct {
		name, text string
		spans      []Span
		want       string
	}{
		{"equal values", "Ada met Bob, then Ada left", []Span{{"PER", 0, 3}, {"PER", 8, 11}, {"PER", 18, 21}},
			"[PER_1] met [PER_2], then [PER_1] left"},
		{"characters, not bytes", "Jürgen traf Ümit", []Span{{"PER", 0, 6}, {"PER", 12, 16}}, "[PER_1] traf [PER_2]"},
		{"characters behind bytes that are no text", "\xe2\x82 Ada", []Span{{"PER", 2, 5}}, "\ufffd [PER_1]"},
		{"overlapping parts", "Ada Lovelace Street", []Span{{"PER", 0, 12}, {"LOC", 4, 19}}, "[LOC_1]"},
		{"a part within another", "Ada Lovelace", []Span{{"PER", 0, 12}, {"LOC", 0, 3}}, "[PER_1]"},
		{"a part of an address", "ada@example.com", []Span{{"PER", 0, 3}}, "[EMAIL_1]"},
		{"neighbours", "AdaBob Ada Bob", []Span{{"PER", 7, 10}, {"PER", 10, 14}}, "AdaBob [PER_1] [PER_2]"},
		{"a part of a word", "Lovelace came", []Span{{"PER", 0, 4}}, "[PER_1] came"},
		{"space around", "hi Ada !", []Span{{"PER", 2, 7}}, "hi [PER_1] !"},
		{"outside the text", "Ada", []Span{{"PER", -5, 99}, {"PER", 3, 2}, {"PER", 7, 9}, {"PER", 1, 1}}, "[PER_1]"},
		{"another group", "Ada", []Span{{"ORG", 0, 3}}, "Ada"},
		{"what the model overlooked", "Ada Lovelace. ADA LOVELACE; ada lovelace's Adas", []Span{{"PER", 0, 12}},
			"[PER_1]. [PER_2]; [PER_3]'s Adas"},
		{"accents", "José García. JOSE GARCIA", []Span{{"PER", 0, 11}}, "[PER_1]. [PER_2]"},
		{"an everyday word", "Will will. Will!", []Span{{"PER", 0, 4}}, "[PER_1] will. [PER_1]!"},
		{"a short name", "US: tell us", []Span{{"LOC", 0, 2}}, "[LOC_1]: tell us"},
		{"no spaces between words", "王小明说王小明", []Span{{"PER", 0, 3}}, "[PER_1]说[PER_1]"},
		{"marks behind a word", "अदिति कनारी, अदिति कनारी", []Span{{"PER", 0, 11}}, "[PER_1], [PER_1]"},
		{"a particle", "김민준은 김민준", []Span{{"PER", 0, 3}}, "[PER_1]은 [PER_1]"},
		{"an invisible character", "A\u200bda Ada", []Span{{"PER", 0, 4}}, "[PER_1] [PER_2]"},
		{"placeholders in the text", "[PER_1] and [PER_3] know Ada, Bob", []Span{{"PER", 25, 28}, {"PER", 30, 33}},
			"[PER_1] and [PER_3] know [PER_2], [PER_4]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, back := r.Redact(c.text, c.spans)
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if again := lossless(back, got); again != string(tokenize.Repair([]byte(c.text))) {
				t.Errorf("came back as %q", again)
			}
		})
	}
}

func TestOnlyPlaceholdersThatWereMadeComeBack(t *testing.T) {
	r := newRedactor(t, "PER", "number")
	text := "[PER_1] met Ada [PER_3] at 12345678"
	redacted, back := r.Redact(text, []Span{spanOf(t, "PER", text, "Ada")})
	if want := "[PER_1] met [PER_2] [PER_3] at [NUMBER_1]"; redacted != want {
		t.Fatal(redacted)
	}
	for said, want := range map[string]string{
		"[PER_2]":             "Ada",
		"[[PER_2]]":           "[Ada]",
		"[PER_[PER_2]":        "[PER_Ada",
		"[PER_1] [PER_3]":     "[PER_1] [PER_3]",
		"[per_2] PER_2 [PER_": "[per_2] PER_2 [PER_",
		"[NUMBER_1][NUMBER_2": "12345678[NUMBER_2",
		"":                    "",
	} {
		if got := back.Restore(said); got != want {
			t.Errorf("%s became %s, want %s", said, got, want)
		}
	}
	name := strings.Repeat("Ada", 10000)
	_, back = r.Redact(name, []Span{{"PER", 0, len(name)}})
	if got := back.Restore(strings.Repeat("[PER_1]", 1000)); len(got) > 7000+maxRestored {
		t.Errorf("%d bytes", len(got))
	}
	// A value that looks like a placeholder is not looked at again.
	r = newRedactor(t, "PER")
	redacted, back = r.Redact("x[PER_2]x Bob", []Span{{"PER", 1, 8}, {"PER", 10, 13}})
	if again := lossless(back, redacted); again != "x[PER_2]x Bob" {
		t.Errorf("%s came back as %s", redacted, again)
	}
}

func TestNothingThatAnExplanationMustNotHoldComesBack(t *testing.T) {
	r := newRedactor(t, "PER", "email", "number")
	text := "https://evil.example/a and Ada\nLovelace, A\u200bda, Bob Bo, bob@example.com"
	redacted, back := r.Redact(text, []Span{spanOf(t, "PER", text, "https://evil.example/a"), spanOf(t, "PER", text,
		"Ada\nLovelace"), spanOf(t, "PER", text, "A\u200bda"), spanOf(t, "PER", text, "Bob Bo")})
	if want := "[PER_1] and [PER_2], [PER_3], [PER_4], [EMAIL_1]"; redacted != want {
		t.Fatal(redacted)
	}
	if got, want := back.Restore(redacted), "[PER_1] and [PER_2], [PER_3], Bob Bo, bob@example.com"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestKindsThatAreRefused(t *testing.T) {
	_, err := NewRedactor([]string{"PER", "PER", "Email", "", "a b", "[X]"})
	if err == nil {
		t.Fatal("nothing was refused")
	}
	for _, want := range []string{`"PER" stands twice`, `"Email": write "email"`, `"" is neither`, `"a b" is neither`,
		`"[X]" is neither`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
}

// person is somebody in a text, in a language.
type person struct{ text, name, email, phone, card string }

var people = []person{
	{"Hello, I am %[1]s. Write to %[2]s or call %[3]s. My card %[4]s was charged twice! Regards, %[1]s",
		"Rosalind Canary", "rosalind.canary@mail.example", "+44 20 7946 0958", "4111 1111 1111 1111"},
	{"Guten Tag, mein Name ist %[1]s (%[2]s). Sie erreichen mich unter %[3]s. Konto %[4]s. Gruß, %[1]s",
		"Jürgen Kanarienvogel", "juergen@kanarienvogel.example", "030 / 9018 2007", "DE89 3704 0044 0532 0130 00"},
	{"Bonjour, je m'appelle %[1]s : %[2]s, tél. %[3]s, carte %[4]s.", "Élodie Canari", "elodie_canari@courriel.example",
		"06 12 34 56 78", "5500-0000-0000-0004"},
	{"Hola, soy %[1]s. Correo %[2]s, móvil %[3]s, tarjeta %[4]s. %[1]s", "Íñigo Canario", "inigo@canario.example",
		"612 345 678", "378282246310005"},
	{"Здравствуйте, я %[1]s, почта %[2]s, телефон %[3]s, карта %[4]s.", "Анна Канарейкина", "анна@пример.example",
		"+7 (912) 345-67-89", "2200 0000 0000 0053"},
	{"مرحبا، أنا %[1]s وبريدي %[2]s وهاتفي %[3]s وبطاقتي %[4]s", "ليلى كناري", "layla@kanari.example", "٠١٠٠ ١٢٣ ٤٥٦٧",
		"٤١١١ ١١١١ ١١١١ ١١١١"},
	{"नमस्ते, मैं %[1]s हूँ, ईमेल %[2]s, फ़ोन %[3]s, कार्ड %[4]s", "अदिति कनारी", "aditi@kanari.example", "९८७६५ ४३२१०",
		"४१११-११११-११११-११११"},
	{"您好,我是%[1]s,邮箱%[2]s,电话%[3]s,卡号%[4]s。谢谢,%[1]s", "金丝雀", "jinsique@youxiang.example", "13812345678",
		"6222021234567890128"},
	{"こんにちは、%[1]sです。メール:%[2]s、電話:%[3]s、カード:%[4]s", "金糸雀子", "kanariya@meeru.example", "090-1234-5678",
		"\uff14\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11"},
}

func TestNoCanaryReachesAQuestion(t *testing.T) {
	r := newRedactor(t, "PER", "email", "phone", "number")
	task, err := label.New(label.Options{Labels: labels, Explain: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range people {
		text := fmt.Sprintf(who.text, who.name, who.email, who.phone, who.card)
		redacted, back := r.Redact(text, []Span{spanOf(t, "PER", text, who.name)})
		question := task.Messages(redacted)
		body, err := json.Marshal(task.Repair(question, redacted, &label.AnswerError{Reason: label.AnswerProse}))
		if err != nil {
			t.Fatal(err)
		}
		var sent []llm.Message // as whoever reads the request
		if err := json.Unmarshal(body, &sent); err != nil {
			t.Fatal(err)
		}
		for _, m := range sent[1:] { // the system part is the same for all
			leaks(t, m.Content, who.name, who.email, who.phone, who.card)
		}
		if again := lossless(back, redacted); again != text {
			t.Errorf("%q came back as %q", text, again)
		}
	}
}

// leaks fails where a part of a canary that says something stands in what was sent: five characters of it as the
// skeleton has them, across whatever stands between.
func leaks(t interface {
	Helper()
	Fatalf(string, ...any)
}, sent string, canaries ...string) {
	t.Helper()
	letters := func(s string) []rune {
		s = anyPlaceholder.ReplaceAllString(s, "\n")
		var kept []rune
		for _, r := range newSkeleton([]rune(s)).text {
			if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '\n' {
				kept = append(kept, r)
			}
		}
		return kept
	}
	haystack := string(letters(sent))
	for _, canary := range canaries {
		needle := letters(strings.TrimSuffix(canary, ".example"))
		size := min(5, len(needle))
		for i := 0; i+size <= len(needle); i++ {
			if piece := string(needle[i : i+size]); strings.Contains(haystack, piece) {
				t.Fatalf("%q of canary %q is in\n%s", piece, canary, sent)
			}
		}
	}
}

var anyPlaceholder = regexp.MustCompile(`\[[A-Z][A-Z0-9_-]{0,30}_[0-9]{1,10}\]`)

// TestNoCanaryOfAnyShapeRemains writes canaries in wild ways into wild texts.
func TestNoCanaryOfAnyShapeRemains(t *testing.T) {
	r := newRedactor(t, "PER", "email", "phone", "number")
	fillers := []string{"hello ", "the parcel is late. ", "日本語 ", "\n", "ok, ", "[PER_1] ", "[NUMBER_2] ", "3 stars ",
		"\u202eabc\u202c ", "\xff ", "– ", "(see below) ", "€ ", "a@ ", "😀 "}
	zeros := []rune{'0', 0x660, 0x6f0, 0x966, 0x9e6, 0xff10, 0x1d7ce, 0x1d7d8, 0xe50, 0x1e950}
	between := []string{"", "", "", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u0336", "\ufe0f", "\U000e0020"}
	disguise := func(t *rapid.T, s string) string {
		var b strings.Builder
		zero := rapid.SampledFrom(zeros).Draw(t, "script")
		for i, c := range s {
			if i > 0 {
				b.WriteString(rapid.SampledFrom(between).Draw(t, "between"))
			}
			switch {
			case '0' <= c && c <= '9':
				c = zero + c - '0'
			case 'a' <= c && c <= 'z' && rapid.IntRange(0, 9).Draw(t, "wide") == 0:
				c += 0xff41 - 'a'
			case c == ' ':
				c = rapid.SampledFrom([]rune{' ', 0xa0, 0x202f, 0x3000}).Draw(t, "space")
			case c == '-':
				c = rapid.SampledFrom([]rune{'-', 0x2011, 0x2013, 0x2212}).Draw(t, "hyphen")
			}
			b.WriteRune(c)
		}
		return b.String()
	}
	shapes := []string{"+49 30 5566 7788", "0049-30-55667788", "(030) 55667788", "5566778855667788",
		"5566 7788 5566 7788", "5566-7788-5566-7788", "55667788", "zyxwvut@qponmlk.zyx", "zyx-wvut@qponmlk.zyx",
		"DE66556677885566778855"}
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		var canaries []string
		var spans []Span
		for range rapid.IntRange(1, 6).Draw(t, "pieces") {
			switch rapid.IntRange(0, 2).Draw(t, "piece") {
			case 0:
				text.WriteString(rapid.SampledFrom(fillers).Draw(t, "filler"))
			case 1:
				canary := rapid.SampledFrom(shapes).Draw(t, "shape")
				canaries = append(canaries, canary)
				text.WriteString(disguise(t, canary) + rapid.SampledFrom([]string{" ", ", ", "\n", "!"}).Draw(t, "end"))
			default:
				name := disguise(t, rapid.SampledFrom([]string{"zyxwv utsrq", "Zyxwvut", "zÿxwv-Ütsrq"}).Draw(t,
					"name"))
				canaries = append(canaries, name)
				start := len([]rune(string(tokenize.Repair([]byte(text.String())))))
				size := len([]rune(name))
				cut := rapid.IntRange(0, 1).Draw(t, "cut") // models find a part of the last word only
				spans = append(spans, Span{"PER", start, start + size - cut})
				text.WriteString(name + " ")
			}
		}
		redacted, back := r.Redact(text.String(), spans)
		leaks(t, redacted, canaries...)
		if again := lossless(back, redacted); again != string(tokenize.Repair([]byte(text.String()))) {
			t.Fatalf("%q came back as %q", text.String(), again)
		}
	})
}

// FuzzRedact: nothing panics, what comes out is text, and all of it comes back.
func FuzzRedact(f *testing.F) {
	for _, who := range people {
		f.Add(fmt.Sprintf(who.text, who.name, who.email, who.phone, who.card), 3, 9)
	}
	f.Add("\xff+49\u200b30[PER_1]", -1, 99)
	r := newRedactor(f, "PER", "email", "phone", "number")
	f.Fuzz(func(t *testing.T, text string, start, end int) {
		redacted, back := r.Redact(text, []Span{{"PER", start, end}})
		if !utf8.ValidString(redacted) {
			t.Fatalf("%q became %q", text, redacted)
		}
		if len(text) < 10000 {
			if again := lossless(back, redacted); again != string(tokenize.Repair([]byte(text))) {
				t.Fatalf("%q became %q, came back as %q", text, redacted, again)
			}
		}
	})
}

// TestHugeTextsAreBounded gives each step the text that is the worst for it. Where a step's work grew with the square
// of the text, this took minutes; what can be counted is that no place is found more than once.
func TestHugeTextsAreBounded(t *testing.T) {
	r := newRedactor(t, "PER", "email", "phone", "number")
	const size = 1 << 12
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for name, text := range map[string]string{
		"single digits": fill("1 "), "digits": fill("1"), "addresses": fill("a@b.example "), "at signs": fill("a@"),
		"dots": fill("a."), "accounts": fill("de89 3704 0044 0532 0130 00 "),
		"prefixes": fill("ab12 "), "placeholders": fill("[PER_1]"), "brackets": fill("["), "pluses": fill("+ "),
		"parentheses": fill("(1"), "one word": fill("a"), "no spaces": fill("王"), "marks": fill("a\u0336"),
		"invisible":              fill("\u200b"),
		"bytes that are no text": fill("\xff"), "ligatures": fill("\ufdfa"),
	} {
		var spans []Span
		for i := range 500 {
			spans = append(spans, Span{"PER", i * 7, i*7 + 1 + i%130})
		}
		t.Run(name, func(t *testing.T) {
			chars := []rune(string(tokenize.Repair([]byte(text))))
			var parts []found
			for _, s := range spans {
				if s.End <= len(chars) {
					parts = append(parts, found{s.Start, s.End, s.Group})
				}
			}
			if again := newSkeleton(chars).repeats(chars, parts); len(again) > len(newSkeleton(chars).text) {
				t.Errorf("%d parts in %d characters", len(again), len(chars))
			}
			if redacted, back := r.Redact(text, spans); !utf8.ValidString(redacted) || back == nil {
				t.Error("no text")
			}
		})
	}
}
