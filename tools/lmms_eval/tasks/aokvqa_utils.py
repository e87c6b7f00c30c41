"""A-OKVQA's rows as lmms-eval's OK-VQA takes them, which asks and scores."""

import ast

from lmms_eval.tasks.ok_vqa import utils as ok_vqa

doc_to_visual = ok_vqa.ok_vqa_doc_to_visual
doc_to_text = ok_vqa.ok_vqa_doc_to_text


def process_results(doc, results):
    """Soft accuracy against the ten direct answers, which the data set keeps as one text."""
    answers = ast.literal_eval(doc["direct_answers"])
    row = {"question_id": doc["question_id"], "answers": answers}
    return {"exact_match": ok_vqa.ok_vqa_process_results(row, results)["exact_match"]}
