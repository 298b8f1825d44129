//! `Offer`.

use std::sync::Arc;

use super::read::{Read, Wrong, at, rule, text};
use super::{choice, pb};
use crate::offer::{Introduction, Offer, Offered};

pub(super) fn encode(offer: &Offer) -> pb::Offer {
    let Introduction { capabilities, server_info, instructions } = &offer.introduction;
    let text = |part: &Option<Arc<str>>| part.as_deref().unwrap_or_default().to_owned();
    let items = offer.items().iter().map(|item| pb::OfferedItem {
        kind: choice::offered_kind::encode(item.kind),
        definition: item.definition.as_ref().to_owned(),
    });
    pb::Offer {
        server: offer.server.to_string(),
        capabilities: text(capabilities),
        server_info: text(server_info),
        instructions: text(instructions),
        items: items.collect(),
    }
}

pub(super) fn decode(message: pb::Offer) -> Read<Offer> {
    let pb::Offer { server, capabilities, server_info, instructions, items } = message;
    let optional = |text: String| Some(text).filter(|text| !text.is_empty()).map(Into::into);
    let introduction = Introduction {
        capabilities: optional(capabilities),
        server_info: optional(server_info),
        instructions: optional(instructions),
    };
    let item = |pb::OfferedItem { kind, definition }| {
        let kind = at("kind", choice::offered_kind::decode(kind))?;
        let offered = at("definition", rule(Offered::parse(kind, definition.into())))?;
        Ok(Arc::new(offered))
    };
    let items: Vec<_> = at("items", items.into_iter().map(item).collect::<Read<_>>())?;
    let count = items.len();
    let offer = rule(Offer::new(at("server", text(&server))?, introduction, items))?;
    match offer.items().len() == count {
        true => Ok(offer),
        false => Err(Wrong::new("something is offered twice")),
    }
}
