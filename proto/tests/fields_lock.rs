//! Numbers on the wire are for ever: every field and enum value that was ever published is in `fields.lock`, and must
//! still mean the same or be `reserved`. `WEFT_BLESS=1` adds what is new; nothing ever rewrites what is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// A field or an enum value, as it was when it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Full name of the message or the enum.
    of: String,
    number: i32,
    name: String,
    /// Type and label of a field; `value` for an enum value.
    kind: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, number, name, kind } = self;
        write!(f, "{of} {number} {name} {kind}")
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().ok_or_else(|| format!("{line:?} is too short"));
        let (of, number, name, kind) = (word()?, word()?, word()?, word()?);
        let number = number.parse().map_err(|_| format!("{line:?} has no number"))?;
        Ok(Self { of: of.to_owned(), number, name: name.to_owned(), kind: kind.to_owned() })
    }
}

/// What the definitions say now.
#[derive(Default)]
struct Definitions {
    entries: Vec<Entry>,
    reserved: BTreeSet<(String, i32)>,
}

/// Reserved ranges may be huge; only numbers up to here are ever used.
const NUMBER_MAX: i32 = 10_000;

impl Definitions {
    fn read(files: &FileDescriptorSet) -> Self {
        let mut definitions = Self::default();
        for file in files.file.iter().filter(|file| file.package() != "google.protobuf") {
            file.message_type.iter().for_each(|it| definitions.add_message(file.package(), it));
            file.enum_type.iter().for_each(|it| definitions.add_enum(file.package(), it));
        }
        definitions
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let of = format!("{scope}.{}", message.name());
        for field in &message.field {
            let kind = format!("{} {}", type_of(field), label_of(message, field));
            self.entries.push(Entry {
                of: of.clone(),
                number: field.number(),
                name: field.name().to_owned(),
                kind,
            });
        }
        for range in &message.reserved_range {
            // The end of a message's range is the first number after it.
            self.reserve(&of, range.start(), range.end() - 1);
        }
        message.nested_type.iter().for_each(|it| self.add_message(&of, it));
        message.enum_type.iter().for_each(|it| self.add_enum(&of, it));
    }

    fn add_enum(&mut self, scope: &str, it: &EnumDescriptorProto) {
        let of = format!("{scope}.{}", it.name());
        for value in &it.value {
            let (number, name) = (value.number(), value.name().to_owned());
            self.entries.push(Entry { of: of.clone(), number, name, kind: "value".to_owned() });
        }
        it.reserved_range.iter().for_each(|range| self.reserve(&of, range.start(), range.end()));
    }

    fn reserve(&mut self, of: &str, first: i32, last: i32) {
        self.reserved.extend((first..=last.min(NUMBER_MAX)).map(|number| (of.to_owned(), number)));
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

/// Whether absence can be told from zero is part of what a field means.
fn label_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    match (field.label(), field.oneof_index) {
        (Label::Repeated, _) => "repeated".to_owned(),
        (Label::Required, _) => "required".to_owned(),
        (Label::Optional, _) if field.proto3_optional() => "optional".to_owned(),
        (Label::Optional, None) => "singular".to_owned(),
        (Label::Optional, Some(index)) => {
            let oneof = usize::try_from(index).ok().and_then(|index| message.oneof_decl.get(index));
            format!("oneof:{}", oneof.map_or("", |oneof| oneof.name()))
        }
    }
}

/// What has become of the locked entries, and which entries are not locked yet.
fn compare(lock: &[Entry], now: &Definitions) -> (Vec<String>, Vec<Entry>) {
    let key = |entry: &Entry| (entry.of.clone(), entry.number);
    let current: BTreeMap<_, _> = now.entries.iter().map(|entry| (key(entry), entry)).collect();
    let (mut broken, mut locked) = (Vec::new(), BTreeSet::new());
    for entry in lock {
        if !locked.insert(key(entry)) {
            broken.push(format!("{} {} is locked twice", entry.of, entry.number));
        }
        match current.get(&key(entry)) {
            Some(now) if *now == entry => {}
            Some(now) => broken.push(format!("{entry} has become {now}")),
            None if now.reserved.contains(&key(entry)) => {}
            None => broken.push(format!("{entry} is gone and its number is not reserved")),
        }
    }
    let new = now.entries.iter().filter(|entry| !locked.contains(&key(entry))).cloned().collect();
    (broken, new)
}

const HEADER: &str = "# Every number ever used on the wire: message or enum, number, name, type and label.\n\
                      # Lines are added and never changed; a field that goes leaves its line here and `reserved` there.\n";

#[test]
fn no_number_on_the_wire_changes_its_meaning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fields.lock");
    let mut text = fs::read_to_string(&path).unwrap_or_else(|_| HEADER.to_owned());
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lock: Vec<Entry> = lines.map(|line| line.parse().unwrap()).collect();
    let files = FileDescriptorSet::decode(weft_proto::pb::DESCRIPTORS).unwrap();
    let (broken, new) = compare(&lock, &Definitions::read(&files));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    if std::env::var_os("WEFT_BLESS").is_some() {
        new.iter().for_each(|entry| text.push_str(&format!("{entry}\n")));
        return fs::write(&path, text).unwrap();
    }
    let new: Vec<_> = new.iter().map(ToString::to_string).collect();
    assert!(new.is_empty(), "not locked yet (WEFT_BLESS=1 adds them):\n{}", new.join("\n"));
}

mod the_comparison {
    use prost_types::descriptor_proto::ReservedRange;
    use prost_types::enum_descriptor_proto::EnumReservedRange;
    use prost_types::{EnumValueDescriptorProto, FileDescriptorProto, OneofDescriptorProto};

    use super::*;

    fn field(number: i32, name: &str, ty: Type) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            label: Some(Label::Optional.into()),
            r#type: Some(ty.into()),
            ..Default::default()
        }
    }

    fn files(message: DescriptorProto, values: &[(i32, &str)]) -> FileDescriptorSet {
        let value = |(number, name): &(i32, &str)| EnumValueDescriptorProto {
            name: Some((*name).to_owned()),
            number: Some(*number),
            options: None,
        };
        let it = EnumDescriptorProto {
            name: Some("Colour".to_owned()),
            value: values.iter().map(value).collect(),
            reserved_range: vec![EnumReservedRange { start: Some(5), end: Some(6) }],
            ..Default::default()
        };
        let message = DescriptorProto { name: Some("Thing".to_owned()), ..message };
        let file = FileDescriptorProto {
            package: Some("p".to_owned()),
            message_type: vec![message],
            enum_type: vec![it],
            ..Default::default()
        };
        FileDescriptorSet { file: vec![file] }
    }

    fn message(fields: Vec<FieldDescriptorProto>) -> DescriptorProto {
        DescriptorProto { field: fields, ..Default::default() }
    }

    /// Compares what was locked with a message and enum values of now.
    #[track_caller]
    fn check(now: DescriptorProto, values: &[(i32, &str)], broken: &[&str], new: &[&str]) {
        let before = message(vec![field(1, "a", Type::String), field(2, "b", Type::Uint32)]);
        let lock = Definitions::read(&files(before, &[(0, "NONE"), (5, "RED")])).entries;
        let found = compare(&lock, &Definitions::read(&files(now, values)));
        assert_eq!(found.0, broken);
        assert_eq!(found.1.iter().map(ToString::to_string).collect::<Vec<_>>(), new);
    }

    const VALUES: [(i32, &str); 2] = [(0, "NONE"), (5, "RED")];

    fn a_and(second: FieldDescriptorProto) -> DescriptorProto {
        message(vec![field(1, "a", Type::String), second])
    }

    #[test]
    fn finds_nothing_where_nothing_changed() {
        check(a_and(field(2, "b", Type::Uint32)), &VALUES, &[], &[]);
    }

    #[test]
    fn finds_a_new_name_a_new_type_and_a_new_label() {
        let was = "p.Thing 2 b uint32 singular has become p.Thing 2";
        check(a_and(field(2, "c", Type::Uint32)), &VALUES, &[&format!("{was} c uint32 singular")], &[]);
        check(a_and(field(2, "b", Type::Uint64)), &VALUES, &[&format!("{was} b uint64 singular")], &[]);
        let repeated =
            FieldDescriptorProto { label: Some(Label::Repeated.into()), ..field(2, "b", Type::Uint32) };
        check(a_and(repeated), &VALUES, &[&format!("{was} b uint32 repeated")], &[]);
        let optional = FieldDescriptorProto { proto3_optional: Some(true), ..field(2, "b", Type::Uint32) };
        check(a_and(optional), &VALUES, &[&format!("{was} b uint32 optional")], &[]);
        let in_oneof = FieldDescriptorProto { oneof_index: Some(0), ..field(2, "b", Type::Uint32) };
        let mut now = a_and(in_oneof);
        now.oneof_decl.push(OneofDescriptorProto { name: Some("either".to_owned()), options: None });
        check(now, &VALUES, &[&format!("{was} b uint32 oneof:either")], &[]);
    }

    #[test]
    fn finds_a_field_that_is_gone_unless_its_number_is_reserved() {
        let mut now = message(vec![field(1, "a", Type::String)]);
        check(
            now.clone(),
            &VALUES,
            &["p.Thing 2 b uint32 singular is gone and its number is not reserved"],
            &[],
        );
        now.reserved_range.push(ReservedRange { start: Some(3), end: Some(9) });
        check(
            now.clone(),
            &VALUES,
            &["p.Thing 2 b uint32 singular is gone and its number is not reserved"],
            &[],
        );
        now.reserved_range.push(ReservedRange { start: Some(2), end: Some(3) });
        check(now, &VALUES, &[], &[]);
    }

    #[test]
    fn finds_a_field_that_took_another_number() {
        check(
            a_and(field(3, "b", Type::Uint32)),
            &VALUES,
            &["p.Thing 2 b uint32 singular is gone and its number is not reserved"],
            &["p.Thing 3 b uint32 singular"],
        );
    }

    #[test]
    fn finds_enum_values_that_changed_and_takes_reserved_ones_as_gone() {
        let same = || a_and(field(2, "b", Type::Uint32));
        let values = [(0, "NONE"), (5, "BLUE"), (6, "RED")];
        check(
            same(),
            &values,
            &["p.Colour 5 RED value has become p.Colour 5 BLUE value"],
            &["p.Colour 6 RED value"],
        );
        check(same(), &[(0, "NONE")], &[], &[]);
        check(same(), &[(5, "RED")], &["p.Colour 0 NONE value is gone and its number is not reserved"], &[]);
    }

    #[test]
    fn finds_a_whole_message_that_is_gone() {
        let lock = ["p.Other 1 a string singular".parse().unwrap()];
        let (broken, _) = compare(&lock, &Definitions::read(&files(message(vec![]), &VALUES)));
        assert_eq!(broken, ["p.Other 1 a string singular is gone and its number is not reserved"]);
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let line = "p.Thing 2 b p.Colour oneof:either";
        assert_eq!(line.parse::<Entry>().unwrap().to_string(), line);
        assert!("p.Thing two b string".parse::<Entry>().is_err());
    }
}
